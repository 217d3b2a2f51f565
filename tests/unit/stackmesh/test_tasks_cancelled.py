"""Whoever is cancelled while it waits for the end of its task is cancelled too, once the task has ended."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from stackmesh.tasks import background
from tests.waiting import until


class Work:
    """Takes its time to end, however often it is cancelled."""

    def __init__(self):
        self.let_go = asyncio.Event()
        self.cancelled = 0
        self.ended = False

    async def run(self):
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
        self.ended = True


async def cancelled_while_it_waits(times, owns=background):
    """Cancels an owner that leaves its block by a KeyError: how that ended, and the work."""
    work = Work()

    async def own():
        with suppress(KeyError):
            async with owns(work.run(), "work"):
                await asyncio.sleep(0)  # the work has begun
                raise KeyError

    owner = asyncio.create_task(own())
    for n in range(times):
        await until(lambda n=n: work.cancelled > n)
        owner.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    alone = owner.done()
    work.let_go.set()
    await asyncio.wait([owner])
    return "alone" if alone or not work.ended else "cancelled" if owner.cancelled() else "went on"


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_a_cancellation_arrives_when_the_work_has_ended(times):
    assert await cancelled_while_it_waits(times) == "cancelled"


async def test_without_one_the_owner_goes_on():
    assert await cancelled_while_it_waits(0) == "went on"


async def test_a_time_limit_around_the_block_holds():
    work = Work()

    async def own():
        async with asyncio.timeout(None) as limit, background(work.run(), "work"):
            await asyncio.sleep(0)
            limit.reschedule(0)  # over as soon as the block is left

    owner = asyncio.create_task(own())
    await until(lambda: work.cancelled > 1)
    work.let_go.set()
    with pytest.raises(TimeoutError):
        await owner


@asynccontextmanager
async def swallowing(work, name):
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def leaving(work, name):
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_that_check_finds_an_owner_that_goes_on():
    assert await cancelled_while_it_waits(1, swallowing) == "went on"


async def test_that_check_finds_an_owner_that_leaves_its_work_alone():
    assert await cancelled_while_it_waits(1, leaving) == "alone"
