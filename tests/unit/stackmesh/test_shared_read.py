import asyncio

import pytest

from stackmesh.shared_read import SharedRead
from stackmesh.tasks import background
from tests.waiting import until


class Counter:
    """Each read takes until `go` is set, and gives the number of the last thing that was done when it began."""

    def __init__(self):
        self.done = self.reads = 0
        self.go = asyncio.Event()
        self.go.set()
        self.fails = None

    async def read(self):
        self.reads += 1
        value = self.done
        await self.go.wait()
        if self.fails is not None:
            raise self.fails
        return value


async def test_who_asks_while_a_read_is_in_flight_is_answered_by_the_next_one():
    counter = Counter()
    shared = SharedRead(counter.read)
    async with background(shared.run(), "reads"):
        counter.go.clear()
        first = [asyncio.create_task(shared.get()) for _ in range(100)]
        await until(lambda: counter.reads)
        counter.done = 1
        later = [asyncio.create_task(shared.get()) for _ in range(100)]
        await asyncio.sleep(0)
        counter.go.set()
        assert set(await asyncio.gather(*first)) == {0}
        assert set(await asyncio.gather(*later)) == {1}
        assert counter.reads == 2


async def test_a_failure_is_theirs_who_asked_and_the_next_read_goes_on():
    counter = Counter()
    shared = SharedRead(counter.read)
    async with background(shared.run(), "reads"):
        counter.fails = ValueError("no")
        results = await asyncio.gather(*(shared.get() for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3
        counter.fails = None
        assert await shared.get() == 0


async def test_who_stops_waiting_disturbs_nobody():
    counter = Counter()
    shared = SharedRead(counter.read)
    async with background(shared.run(), "reads"):
        counter.go.clear()
        gone, stays = (asyncio.create_task(shared.get()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        counter.go.set()
        assert await stays == 0
        with pytest.raises(asyncio.CancelledError):
            await gone
