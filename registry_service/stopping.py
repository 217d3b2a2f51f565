"""Streams that would go on for ever end when the process stops, instead of holding up its drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc

from stackmesh.errors import ShuttingDown
from stackmesh.interceptors import Continuation, Details, Handler, wrap


class EndStreams(grpc.aio.ServerInterceptor):
    """Once stopped, every stream of answers fails with ShuttingDown, open ones at once. Unary calls go on."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._stopped = False

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        return wrap(handler, self._until_stopped) if handler is not None and handler.response_streaming else handler

    def stop(self) -> None:
        self._stopped = True
        for limit in self._open:
            limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def _until_stopped(self, _request: object, _context: object) -> AsyncGenerator[None]:
        limit = asyncio.timeout(0 if self._stopped else None)
        try:
            async with limit:
                self._open.add(limit)
                try:
                    yield
                finally:
                    self._open.discard(limit)
        except TimeoutError:
            if limit.expired():
                raise ShuttingDown("the registry is shutting down: try another one, or again") from None
            raise
