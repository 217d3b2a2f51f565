"""The least a proxy can be: bytes in, bytes out, to one upstream. And some ways to get it wrong.

It is the control of this suite: what it passes is gRPC's own doing, and what a flawed one passes is not tested.
`python -m tests.contracts.data_plane.bare_proxy LISTEN UPSTREAM FLAW` runs one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any, Final, Literal

import grpc
import uvloop

from stackmesh import routes
from stackmesh.transport import PUBLIC_LISTENER, internal_channel
from tests.contracts.data_plane import conformance as api

Flaw = Literal["none", "forgets to cancel", "buffers", "drops trailers", "one writer"]
_MAKE: Final[dict[tuple[bool, bool], Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class BareProxy(grpc.GenericRpcHandler):
    def __init__(self, upstream: grpc.aio.Channel, flaw: Flaw) -> None:
        self._flaw = flaw
        self._writer = asyncio.Lock()
        self._forgotten: list[asyncio.Task[Any]] = []
        self._handlers = {
            method.path: _MAKE[method.client_streaming, method.server_streaming](self._forwarder(method, upstream))
            for method in routes.load(api.descriptor_set()).values()
        }

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)

    def _forwarder(self, method: routes.Method, upstream: grpc.aio.Channel) -> Any:
        shapes: dict[tuple[bool, bool], Any] = {
            (False, False): upstream.unary_unary,
            (False, True): upstream.unary_stream,
            (True, False): upstream.stream_unary,
            (True, True): upstream.stream_stream,
        }
        start = shapes[method.client_streaming, method.server_streaming](method.path)

        async def forward(request: Any, context: Any) -> Any:
            metadata, timeout = context.invocation_metadata(), context.time_remaining()
            call = start(request, metadata=metadata, timeout=timeout)
            try:
                await context.send_initial_metadata(await call.initial_metadata())
                answer = None if method.server_streaming else await call
                if method.server_streaming:
                    async for message in self._read(call):
                        await self._write(context, message)
                if self._flaw != "drops trailers":
                    context.set_trailing_metadata(await call.trailing_metadata())
            except grpc.aio.AioRpcError as error:
                trailers = () if self._flaw == "drops trailers" else error.trailing_metadata()
                await context.abort(error.code(), error.details() or "", tuple(trailers))
            else:
                return answer
            finally:
                call.cancel()

        return self._forgetting(forward) if self._flaw == "forgets to cancel" else forward

    def _forgetting(self, forward: Any) -> Any:
        async def forget(request: Any, context: Any) -> Any:
            task = asyncio.create_task(forward(request, context))
            self._forgotten.append(task)
            return await asyncio.shield(task)

        return forget

    async def _write(self, context: Any, message: bytes) -> None:
        async with self._writer if self._flaw == "one writer" else nullcontext():
            await context.write(message)

    async def _read(self, call: Any) -> AsyncIterator[bytes]:
        if self._flaw == "buffers":
            for message in [message async for message in call]:
                yield message
            return
        async for message in call:
            yield message


async def main(listen: str, upstream: str, flaw: Flaw) -> None:
    async with internal_channel(upstream) as channel:
        server = grpc.aio.server(options=PUBLIC_LISTENER)
        server.add_generic_rpc_handlers((BareProxy(channel, flaw),))
        server.add_insecure_port(listen)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3]))  # type: ignore[arg-type]
