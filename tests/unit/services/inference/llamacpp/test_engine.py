from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from services.inference.llamacpp.engine import Call, Engine, Run
from services.inference.llamacpp.server import Callback
from stackmesh.errors import QueueFull, ShuttingDown
from tests.waiting import until

LIMIT = 5.0


class Backend:
    """A call as llama.cpp's: it blocks in a thread, speaks when told to, and notices a stop when it speaks."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Semaphore(0)
        self.stopped = False
        self.left = False

    def __call__(self, hear: Callback) -> None:
        self.begun.set()
        number = 0
        while not self.stopped:
            assert self.gate.acquire(timeout=LIMIT)
            self.stopped = hear({"number": number})
            number += 1
        self.left = True

    def speak(self, times: int = 1) -> None:
        self.gate.release(times)


async def hold(engine: Engine, call: Call) -> None:
    async with engine.run(call) as run:
        while await run.take():
            pass


async def leave(*tasks: asyncio.Task[None]) -> None:
    """Cancelled, a holder is gone at once; its thread only when it speaks again."""
    for task in tasks:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_messages_come_as_they_are_said_and_together_when_the_taker_is_slow() -> None:
    backend = Backend()
    async with Engine(1, 0) as engine, asyncio.timeout(LIMIT):
        async with engine.run(backend) as run:
            backend.speak()
            assert await run.take() == [{"number": 0}]
            backend.speak(3)
            await until(lambda: len(run._arrived) == 3)
            assert await run.take() == [{"number": 1}, {"number": 2}, {"number": 3}]
            run.stop()
            backend.speak()
            assert await run.take() == []
            assert await run.take() == []


async def test_what_a_call_raises_comes_after_what_it_said() -> None:
    def call(hear: Callback) -> None:
        hear({"number": 0})
        raise ValueError("broken")

    async with Engine(1, 0) as engine, asyncio.timeout(LIMIT):
        async with engine.run(call) as run:
            assert await run.take() == [{"number": 0}]
            with pytest.raises(ValueError, match="broken"):
                await run.take()


async def test_a_full_queue_refuses_at_once() -> None:
    backends = [Backend() for _ in range(3)]
    async with Engine(1, 1) as engine:
        working = asyncio.create_task(hold(engine, backends[0]))
        await until(lambda: engine.running == 1)
        queued = asyncio.create_task(hold(engine, backends[1]))
        await until(lambda: engine.waiting == 1)
        with pytest.raises(QueueFull) as caught:
            await hold(engine, backends[2])
        assert caught.value.retry_after == 1.0
        await leave(queued, working)
        backends[0].speak()
    assert not backends[1].begun.is_set()
    assert not backends[2].begun.is_set()


async def test_cancelled_in_the_queue_it_never_begins_and_leaves_its_place() -> None:
    first, second, third = Backend(), Backend(), Backend()
    async with Engine(1, 1) as engine:
        working = asyncio.create_task(hold(engine, first))
        await until(lambda: engine.running == 1)
        queued = asyncio.create_task(hold(engine, second))
        await until(lambda: engine.waiting == 1)
        await leave(queued)
        assert engine.waiting == 0
        following = asyncio.create_task(hold(engine, third))
        await until(lambda: engine.waiting == 1)
        await leave(working)
        first.speak()
        await until(third.begun.is_set)
        await leave(following)
        third.speak()
    assert not second.begun.is_set()


async def check_slot_is_held_until_the_thread_has_left(engine: Engine) -> None:
    first, second = Backend(), Backend()
    async with engine:
        try:
            async with engine.run(first):
                await until(first.begun.is_set)
            assert (engine.running, first.left) == (1, False)
            following = asyncio.create_task(hold(engine, second))
            await until(lambda: engine.waiting == 1)
        finally:
            first.speak()
        await until(second.begun.is_set)
        assert first.left
        await leave(following)
        second.speak()


async def test_slot_is_held_until_the_thread_has_left() -> None:
    await check_slot_is_held_until_the_thread_has_left(Engine(1, 4))


class Hasty(Engine):
    """The planted bug: the slot is given back when the caller has left."""

    @asynccontextmanager
    async def run(self, call: Call) -> AsyncGenerator[Run]:
        async with super().run(call) as run:
            yield run
        self._release(run)


async def test_the_slot_check_sees_a_hasty_engine() -> None:
    with pytest.raises(AssertionError):
        await check_slot_is_held_until_the_thread_has_left(Hasty(1, 4))


async def test_closing_stops_what_runs_and_refuses_what_waits() -> None:
    first, second = Backend(), Backend()
    engine = Engine(1, 4)
    async with engine:
        working = asyncio.create_task(hold(engine, first))
        await until(first.begun.is_set)
        queued = asyncio.create_task(hold(engine, second))
        await until(lambda: engine.waiting == 1)
        threading.Timer(0.05, first.speak).start()
    assert first.left
    await working
    with pytest.raises(ShuttingDown):
        await queued
    assert engine.running == 0
    with pytest.raises(ShuttingDown):
        await hold(engine, second)


async def test_repr_shows_its_state() -> None:
    assert repr(Engine(1, 0)) == "Engine(running=0, waiting=0, closing=False)"
