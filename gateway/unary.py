"""A unary call upstream, one layer below grpc.aio's own.

grpc.aio makes a task of every call, registers it with its channel, and indexes its metadata by key three times: a
tenth of all that a proxied unary call costs. What is left is what `UnaryUnaryCall` in grpc/aio/_call.py does with the
layer below; the suite in tests/contracts/data_plane runs over it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any, cast

import grpc

from gateway.metadata import Pair

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class UnaryCall:
    """Begins with `response`, which is awaited once."""

    __slots__ = ("_call", "_metadata", "_request")

    def __init__(self, call: Any, request: bytes, metadata: tuple[Pair, ...]) -> None:
        self._call = call
        self._request = request
        self._metadata = metadata

    async def response(self) -> bytes:
        """The answer. Raises AioRpcError for any status but OK."""
        response = await self._call.unary_unary(self._request, self._metadata, None)
        if response is not None and self._call.is_ok():
            return response
        status = self._call._status  # noqa: SLF001 -- as grpc.aio reads it
        raise grpc.aio.AioRpcError(
            _CODES.get(status.code(), grpc.StatusCode.UNKNOWN),
            grpc.aio.Metadata(*self.initial_metadata),
            grpc.aio.Metadata(*self.trailing_metadata),
            status.details(),
            status.debug_error_string(),
        )

    @property
    def initial_metadata(self) -> tuple[Pair, ...]:
        """Of the answer, once it is there."""
        return self._call._initial_metadata or ()  # noqa: SLF001 -- as grpc.aio reads it

    @property
    def trailing_metadata(self) -> tuple[Pair, ...]:
        """Of the answer, once it is there."""
        return self._call._status.trailing_metadata() or ()  # noqa: SLF001 -- as grpc.aio reads it

    def cancel(self) -> None:
        """End it upstream, if it has not ended."""
        if not self._call.done():
            self._call.cancel("the caller has gone")


def opener(channel: grpc.aio.Channel, path: str) -> Callable[..., UnaryCall]:
    """What makes calls of one method on a channel; `timeout` is in seconds."""
    raw = cast("Any", channel)._channel  # noqa: SLF001 -- the layer below
    method = path.encode()

    def start(request: bytes, *, timeout: float, metadata: tuple[Pair, ...]) -> UnaryCall:
        return UnaryCall(raw.call(method, time() + timeout, None, None, 0), request, metadata)

    return start
