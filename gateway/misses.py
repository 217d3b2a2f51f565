"""What leads nowhere by the snapshot is settled by the registry itself, so that what was acknowledged counts at once:
that a name was registered, and that it is served now.

The store's current revision is read, and the call waits until the snapshot has reached it; if the store is another one,
until it has been listed anew. However many calls wait, one read is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from stackmesh.errors import RegistryUnreachable
from stackmesh.shared_read import SharedRead

LIMIT: Final = 2.8
"""Seconds a miss waits at most. Callers hear within 3 s, the way there and back included."""

Position = tuple[int, str]
"""A revision, and the store it belongs to."""


class Misses:
    """`read` asks the registry where it is; `reached` waits until the snapshot is there."""

    def __init__(self, read: Callable[[], Awaitable[Position]], reached: Callable[[int, str], Awaitable[None]]) -> None:
        self._read = read
        self._reached = reached
        self._position = SharedRead(self._ask)

    async def settle(self, within: float) -> None:
        """Wait until the snapshot holds every write that was acknowledged before this call.

        Raises RegistryUnreachable when that cannot be known within `within` seconds or LIMIT.
        """
        try:
            async with asyncio.timeout(min(within, LIMIT)):
                await self._reached(*await self._position.get())
        except TimeoutError:
            raise RegistryUnreachable("the name is not known here, and the registry did not say in time") from None

    async def run(self) -> None:
        """Read for those who wait, for ever."""
        await self._position.run()

    async def _ask(self) -> Position:
        try:
            async with asyncio.timeout(LIMIT):
                return await self._read()
        except (grpc.aio.AioRpcError, TimeoutError):
            raise RegistryUnreachable("the name is not known here, and the registry cannot be reached") from None
