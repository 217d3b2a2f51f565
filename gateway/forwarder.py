"""Passes the calls of one method on, bytes in and bytes out: one behaviour for each of the four call shapes.

A single stream-stream behaviour would do for all of them, at up to twice the cost of a unary call.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

import grpc

from gateway import metadata
from gateway.balancer import Balancer
from gateway.director import type_word
from gateway.routing import Routing
from gateway.tries import Tries, Way
from stackmesh.config import GatewayConfig
from stackmesh.errors import Timeout
from stackmesh.routes import Method
from stackmesh.tasks import background

_EOF: Final[Any] = grpc.aio.EOF
_OK: Final = grpc.StatusCode.OK
_CANCEL_SECONDS: Final = 0.002
"""grpc.aio shows a cancelled request stream as one that has ended, and the cancellation some 0.5 ms later. Without the
pause a request that was cut off would reach the upstream as a complete one."""


class Forwarder:
    """Behaviours raise MeshError for what is decided here; what an upstream answered they pass on by themselves."""

    def __init__(self, method: Method, routing: Routing, balancer: Balancer, limits: GatewayConfig) -> None:
        streams = method.client_streaming or method.server_streaming
        limit = limits.stream_timeout if streams else limits.unary_timeout
        self._way = Way(method, routing, balancer, limit)
        self._read_key = method.read_key
        self._word = type_word(method.route.resource_type) if method.read_key is not None else ""

    async def unary_unary(self, request: bytes, context: Any) -> bytes | None:
        tries = Tries(self._way, context)
        name = self._name(tries, request)
        while True:
            with await tries.next(name):
                call = tries.start(request)
                try:
                    response = await call
                except grpc.aio.AioRpcError as error:
                    await tries.fail(error)
                    continue
                await tries.answer(await call.initial_metadata())
                tries.end(await call.trailing_metadata())
                return response

    async def unary_stream(self, request: bytes, context: Any) -> None:
        tries = Tries(self._way, context)
        name = self._name(tries, request)
        while True:
            with await tries.next(name):
                call = tries.start(request)
                try:
                    await _relay(tries, call, context)
                except grpc.aio.AioRpcError as error:
                    await tries.fail(error)
                    continue
                return

    async def stream_unary(self, _requests: object, context: Any) -> bytes | None:
        tries = Tries(self._way, context)
        name, first = await self._first(tries, context)
        while True:
            with await tries.next(name):
                call = tries.start()
                try:
                    await call.wait_for_connection()
                    tries.spent = True
                    async with background(_pump(first, context, call), "pump requests", vital=False):
                        initial = await call.initial_metadata()
                        if not call.done():
                            await tries.answer(initial)
                        response = await call
                except grpc.aio.AioRpcError as error:
                    await tries.fail(error)
                    continue
                if not tries.answered:
                    await tries.answer(initial)
                tries.end(await call.trailing_metadata())
                return response

    async def stream_stream(self, _requests: object, context: Any) -> None:
        tries = Tries(self._way, context)
        name, first = await self._first(tries, context)
        while True:
            with await tries.next(name):
                call = tries.start()
                try:
                    await call.wait_for_connection()
                    tries.spent = True
                    async with background(_pump(first, context, call), "pump requests", vital=False):
                        await _relay(tries, call, context)
                except grpc.aio.AioRpcError as error:
                    await tries.fail(error)
                    continue
                return

    def _name(self, tries: Tries, request: bytes) -> str:
        """The resource the call names: in its header, else in its body."""
        if self._read_key is None:
            return ""
        if tries.route is not None:
            return metadata.route_name(tries.route, self._word)
        return self._read_key(request)

    async def _first(self, tries: Tries, context: Any) -> tuple[str, bytes | None]:
        """The resource the call names, and the first message if it had to be read for that."""
        if self._read_key is None or tries.route is not None:
            return self._name(tries, b""), None
        try:
            async with asyncio.timeout(tries.remaining()):
                first = await context.read()
        except TimeoutError:
            raise Timeout("no first message came to say where the call goes") from None
        return self._name(tries, b"" if first is _EOF else first), first


async def _relay(tries: Tries, call: Any, context: Any) -> None:
    """Pass the answers on, one by one. Raises AioRpcError when they end in a failure."""
    initial = await call.initial_metadata()
    read, write = call.read, context.write
    if initial or tries.spent:
        if not call.done() or await call.code() is _OK:
            await tries.answer(initial)
        message = await read()
    else:  # an answer begins like this, its first message with it; so does a refusal, after which others are tried
        message = await read()
        await tries.answer(initial)
    while message is not _EOF:
        await write(message)
        message = await read()
    tries.end(await call.trailing_metadata())


async def _pump(first: bytes | None, context: Any, call: Any) -> None:
    """Pass the requests on until the client has closed its side, then close it upstream.

    What fails here fails the answer too, which says it.
    """
    # Not call.write: when the upstream has ended its stream, that one makes INTERNAL of the status and loses answers.
    write = call._cython_call.send_serialized_message  # noqa: SLF001 -- see above
    with suppress(grpc.aio.BaseError):
        if first is not None:
            await write(first)
        read = context.read
        while (message := await read()) is not _EOF:
            await write(message)
        await asyncio.sleep(_CANCEL_SECONDS)
        await call.done_writing()
