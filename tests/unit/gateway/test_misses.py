from __future__ import annotations

import asyncio

import grpc
import pytest

from gateway.misses import Misses
from stackmesh.errors import RegistryUnreachable
from stackmesh.tasks import background


class Registry:
    """A revision that can be read, and a snapshot that has reached some revision."""

    def __init__(self) -> None:
        self.revision = 1
        self.reads = 0
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached_at = 100

    async def read(self) -> tuple[int, str]:
        self.reads += 1
        revision = self.revision
        await self.gate.wait()
        if self.fails:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        return revision, "one"

    async def reached(self, revision: int, store_id: str) -> None:
        self.waited_for = revision
        if revision > self.reached_at:
            await asyncio.Event().wait()


async def spin() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_read_settles_all_that_wait():
    registry = Registry()
    misses = Misses(registry.read, registry.reached)
    async with asyncio.timeout(2), background(misses.run(), "misses"):
        await asyncio.gather(*(misses.settle(2) for _ in range(100)))
    assert registry.reads == 1


async def waited_for_a_write_during_a_read(kind: type[Misses]) -> int:
    """The revision a miss waits for when a write was acknowledged while an older read was in flight."""
    registry = Registry()
    misses = kind(registry.read, registry.reached)
    async with asyncio.timeout(2), background(misses.run(), "misses"):
        registry.gate.clear()
        first = asyncio.create_task(misses.settle(2))
        await spin()
        registry.revision = 2
        second = asyncio.create_task(misses.settle(2))
        await spin()
        registry.gate.set()
        await asyncio.gather(first, second)
    return registry.waited_for


async def test_a_read_does_not_settle_what_came_after_it_was_sent():
    assert await waited_for_a_write_during_a_read(Misses) == 2


async def test_control_a_read_that_is_joined_late_is_noticed():
    class Joining(Misses):
        reading = None

        async def run(self) -> None:
            """There is nothing to do: who comes during a read takes part in it."""

        async def settle(self, within: float) -> None:
            self.reading = self.reading or asyncio.create_task(self._read())
            await self._reached(*await self.reading)

    assert await waited_for_a_write_during_a_read(Joining) == 1


async def test_an_unreachable_registry_settles_nothing():
    registry = Registry()
    registry.fails = True
    misses = Misses(registry.read, registry.reached)
    async with asyncio.timeout(2), background(misses.run(), "misses"):
        with pytest.raises(RegistryUnreachable):
            await misses.settle(2)
        registry.fails = False
        await misses.settle(2)


async def test_a_snapshot_that_does_not_come_is_waited_for_within_the_deadline():
    registry = Registry()
    registry.reached_at = 0
    misses = Misses(registry.read, registry.reached)
    async with asyncio.timeout(2), background(misses.run(), "misses"):
        with pytest.raises(RegistryUnreachable):
            await misses.settle(0.05)
