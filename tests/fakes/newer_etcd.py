"""A newer etcd in front of the real, old one: as far as watches differ.

Since 3.5.22 and 3.6.2 etcd does not answer a WatchProgressRequest while a watch of the stream begins in the future
(`progressIfSync` in server/storage/mvcc/watchable_store.go: `if rev < w.startRev { return false }`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc

from registry_service.etcd.wire import RANGE, WATCH, Method
from stackmesh.etcd.v1 import etcd_pb2 as pb

_OPTIONS: Final = [("grpc.max_receive_message_length", -1)]


class NewerEtcd(grpc.GenericRpcHandler):
    """Hands every call on, as bytes."""

    def __init__(self, upstream: grpc.aio.Channel) -> None:
        self._upstream = upstream
        self.unanswered = 0
        """Questions for progress that were kept from the member."""

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler:
        path = handler_call_details.method
        watches = path == WATCH.path

        async def call(requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes]:
            metadata = [pair for pair in context.invocation_metadata() if pair[0] in ("hasleader", "token")]
            upstream = self._upstream.stream_stream(path)
            answers = upstream(self._answered(requests) if watches else requests, metadata=metadata)
            try:
                async for answer in answers:
                    yield answer
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            finally:
                answers.cancel()

        return grpc.stream_stream_rpc_method_handler(call)

    async def _answered(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """What the member answers of what is said on a stream of watches."""
        start = 0
        async for request in requests:
            said = pb.WatchRequest.FromString(request)
            if said.HasField("create_request"):
                start = max(start, said.create_request.start_revision)
            elif await self._revision() < start:
                self.unanswered += 1
                continue
            yield request

    async def _revision(self) -> int:
        read: Method[pb.RangeRequest, pb.RangeResponse] = RANGE
        ask = self._upstream.unary_unary(read.path, pb.RangeRequest.SerializeToString, pb.RangeResponse.FromString)
        return (await ask(pb.RangeRequest(key=b"\0"))).header.revision


@asynccontextmanager
async def newer_etcd(upstream: str) -> AsyncGenerator[tuple[NewerEtcd, str]]:
    """In front of the member at that address; and the address where it answers itself."""
    async with grpc.aio.insecure_channel(upstream, options=_OPTIONS) as channel:
        newer = NewerEtcd(channel)
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((newer,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield newer, f"127.0.0.1:{port}"
        finally:
            await server.stop(0)
