"""A name the snapshot does not know is settled by the registry itself, so that what was registered is found at once.

The store's current revision is read, and the call waits until the snapshot has reached it. However many calls wait,
one read is in flight; a read settles only the misses that came before it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from stackmesh.errors import RegistryUnreachable

LIMIT: Final = 3.0
"""Seconds a miss waits at most."""


class Misses:
    """`read` asks the registry for its revision; `reached` waits until the snapshot holds one."""

    def __init__(self, read: Callable[[], Awaitable[int]], reached: Callable[[int], Awaitable[None]]) -> None:
        self._read = read
        self._reached = reached
        self._waiting: list[asyncio.Future[int]] = []
        self._asked = asyncio.Event()

    async def settle(self, within: float) -> None:
        """Wait until the snapshot holds every write that was acknowledged before this call.

        Raises RegistryUnreachable when that cannot be known within `within` seconds or LIMIT.
        """
        settled: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(settled)
        self._asked.set()
        try:
            async with asyncio.timeout(min(within, LIMIT)):
                await self._reached(await settled)
        except TimeoutError:
            raise RegistryUnreachable("the name is not known here, and the registry did not say in time") from None

    async def run(self) -> None:
        """Read for those who wait, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            try:
                async with asyncio.timeout(LIMIT):
                    revision = await self._read()
            except (grpc.aio.AioRpcError, TimeoutError):
                _give_up(waiting)
            else:
                for settled in waiting:
                    if not settled.done():
                        settled.set_result(revision)


def _give_up(waiting: list[asyncio.Future[int]]) -> None:
    for settled in waiting:
        if not settled.done():
            settled.set_exception(RegistryUnreachable("the name is not known here, and the registry cannot be reached"))
