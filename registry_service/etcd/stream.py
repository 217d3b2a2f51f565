"""A stream to one member, whose silence is told from its death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Generic

import grpc

from registry_service.etcd.client import Client, Metadata
from registry_service.etcd.endpoints import Endpoint
from registry_service.etcd.errors import hung_up
from registry_service.etcd.wire import A, Method, Q
from stackmesh.errors import MeshError, RegistryUnreachable
from stackmesh.tasks import background


class Stream(Generic[Q, A]):
    """Reads one message ahead, and no more: the rest stays with the member until it is wanted."""

    def __init__(self, callable_: grpc.aio.StreamStreamMultiCallable[Q, A], address: str, metadata: Metadata) -> None:
        self.address = address
        self._metadata = metadata
        # Not by `call.write`, which waits for ever when the channel is closed before the call has begun.
        self._write: asyncio.Queue[Q | None] = asyncio.Queue()
        self._read: asyncio.Queue[A | MeshError] = asyncio.Queue(1)
        self._call: Any = callable_(self._messages(), metadata=metadata)

    def write(self, message: Q) -> None:
        """What the stream fails with is told by `next`."""
        self._write.put_nowait(message)

    def cancel(self) -> None:
        self._write.put_nowait(None)  # gRPC leaves its task to the iterator when the call has ended by itself
        self._call.cancel()

    async def next(self, silence: float) -> A | None:
        """The next message; None after `silence` seconds without one. Raises what the stream failed with."""
        try:
            async with asyncio.timeout(silence):
                message = await self._read.get()
        except TimeoutError:
            return None
        if isinstance(message, MeshError):
            raise message
        return message

    async def pump(self, client: Client, endpoint: Endpoint) -> None:
        """Read until the stream ends."""
        problem: MeshError = hung_up(self.address)
        try:
            with client.failures(endpoint, self._metadata):
                while (message := await self._call.read()) is not grpc.aio.EOF:
                    await self._read.put(message)
        except MeshError as error:
            problem = error
        await self._read.put(problem)

    async def _messages(self) -> AsyncGenerator[Q]:
        while (message := await self._write.get()) is not None:
            yield message


@asynccontextmanager
async def opened(client: Client, method: Method[Q, A]) -> AsyncGenerator[Stream[Q, A]]:
    """A stream to the current member, which is left if the body raises RegistryUnreachable."""
    endpoint = client.current()
    try:
        metadata = await client.ready(endpoint, client.patience)
        stream = Stream(endpoint.stream(method), endpoint.address, metadata)
        async with background(stream.pump(client, endpoint), method.path, vital=False):
            try:
                yield stream
            finally:
                stream.cancel()
    except RegistryUnreachable:
        await client.endpoints.leave(endpoint)
        raise
