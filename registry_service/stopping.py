"""Streams that would go on for ever end when the process stops, instead of holding up its drain."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import grpc

from stackmesh.errors import ShuttingDown
from stackmesh.interceptors import Continuation, Details, Handler

_END: Final = object()


class EndStreams(grpc.aio.ServerInterceptor):
    """Once stopped, every stream of answers fails with ShuttingDown, open ones at once. Unary calls go on."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()
        self._stopped = False

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        behaviour = handler and (handler.unary_stream or handler.stream_stream)
        if not inspect.isasyncgenfunction(behaviour):
            return handler

        async def until_stopped(request: Any, context: Any) -> AsyncGenerator[Any]:
            async with aclosing(behaviour(request, context)) as messages:
                while (message := await self._next(messages)) is not _END:
                    yield message  # not within the limit: after a write that was cut off, gRPC sends no status

        kind = grpc.stream_stream_rpc_method_handler if handler.stream_stream else grpc.unary_stream_rpc_method_handler
        return kind(until_stopped, handler.request_deserializer, handler.response_serializer)

    def stop(self) -> None:
        self._stopped = True
        for limit in self._waiting:
            limit.reschedule(asyncio.get_running_loop().time())

    async def _next(self, messages: AsyncGenerator[Any]) -> Any:
        limit = asyncio.timeout(None)
        self._waiting.add(limit)
        try:
            if not self._stopped:
                async with limit:
                    return await anext(messages, _END)
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._waiting.discard(limit)
        raise ShuttingDown("the registry is shutting down: try another one, or again")
