"""Bytes from a thread to a task: in order, together, with back-pressure, and never lost."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import CancelledError
from typing import Any

import pytest

from services.inference.bedrock.pipe import Pipe
from tests.waiting import until

PATIENCE = 20.0


def pipe(**options: Any) -> Pipe:
    return Pipe(asyncio.get_running_loop(), **options)


async def read(opened: Pipe) -> bytes:
    return b"".join([piece async for piece in _pieces(opened)])


async def _pieces(opened: Pipe) -> Any:
    while piece := await opened.readany():
        yield piece


class Counting:
    """A loop that counts how often a thread wakes it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.wakings = 0

    def call_soon_threadsafe(self, callback: Any) -> None:
        self.wakings += 1
        self._loop.call_soon_threadsafe(callback)


async def test_what_arrives_together_is_taken_together_by_one_waking() -> None:
    loop = Counting()
    opened = Pipe(loop)
    for n in range(100):
        opened.put(b"%02d" % n)
    opened.end()
    assert await opened.readany() == b"".join(b"%02d" % n for n in range(100))
    assert await opened.readany() == b""
    assert loop.wakings == 1


async def test_what_arrives_apart_is_taken_apart() -> None:
    opened = pipe()
    opened.put(b"a")
    assert await opened.readany() == b"a"
    opened.put(b"b")
    assert await opened.readany() == b"b"


async def test_what_ends_it_comes_after_what_precedes_it() -> None:
    opened = pipe()
    opened.put(b"a")
    opened.end(OSError("gone"))
    assert await opened.readany() == b"a"
    with pytest.raises(OSError, match="gone"):
        await opened.readany()


async def test_a_slow_reader_stops_the_thread() -> None:
    opened = pipe(room=1000)
    put = 0

    def work() -> None:
        nonlocal put
        for _ in range(100):
            opened.put(b"x" * 100)
            put += 1
        opened.end()

    thread = threading.Thread(target=work)
    thread.start()
    await until(lambda: put == 10, PATIENCE)
    await asyncio.sleep(0.05)  # long enough for a thread that does not stop
    assert put == 10
    async with asyncio.timeout(PATIENCE):
        assert len(await read(opened)) == 10_000
    await asyncio.to_thread(thread.join, PATIENCE)


async def test_without_a_limit_it_would_not_stop() -> None:
    """The check above fails for a pipe without back-pressure."""
    opened = pipe(room=1_000_000)
    for _ in range(100):
        opened.put(b"x" * 100)
    assert opened._put == 10_000


async def test_a_reader_that_leaves_lets_the_thread_go() -> None:
    opened = pipe(room=10)
    ended = threading.Event()

    def work() -> None:
        try:
            opened.put(b"x" * 100)
        except CancelledError:
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    await until(lambda: opened._put == 100, PATIENCE)
    opened.close()
    assert await asyncio.to_thread(ended.wait, PATIENCE)
    with pytest.raises(CancelledError):
        opened.put(b"x")
    thread.join()


async def test_a_reader_that_always_finds_something_lets_others_have_their_turn() -> None:
    opened = pipe(room=10**9)
    for _ in range(1000):
        opened.put(b"x" * 16384)
    opened.end()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    assert len(await read(opened)) == 16384 * 1000
    task.cancel()
    assert turns >= 1000


async def test_a_turn_is_not_much_more_than_4_kilobytes() -> None:
    opened = pipe()
    for _ in range(50):
        opened.put(b"x" * 1000)
    assert len(await opened.readany()) == 5_000


@pytest.mark.parametrize("room", [1, 100, 5000])
async def test_nothing_is_lost_whoever_is_faster(room: int) -> None:
    """Threads and tasks that pause at random: a waking that is lost would wait for ever."""

    async def one(seed: int) -> None:
        opened = pipe(room=room)
        chance = random.Random(seed)  # noqa: S311 -- no secret
        sent = [bytes([chance.randrange(256)]) * chance.randrange(1, 300) for _ in range(200)]

        def work() -> None:
            for piece in sent:
                opened.put(piece)
                if chance.random() < 0.1:
                    threading.Event().wait(0.0005)
            opened.end()

        thread = threading.Thread(target=work)
        thread.start()
        found = b""
        while piece := await opened.readany():
            found += piece
            if seed % 3 == 0:
                await asyncio.sleep(0)
        assert found == b"".join(sent)
        await asyncio.to_thread(thread.join)

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(one(seed) for seed in range(20)))


async def test_the_check_sees_a_waking_that_is_lost() -> None:
    """The bug: telling is switched on again after looking, so that what comes in between is not told."""

    class Deaf(Pipe):
        async def readany(self) -> bytes:
            while not self._pieces:
                self._arrived.clear()
                await self._arrived.wait()
                if not self._pieces:
                    continue
            taken = self._take()
            self.put(b"in between")  # as a thread may
            self._told = False
            return taken

    opened = Deaf(asyncio.get_running_loop())
    opened.put(b"a")
    assert await opened.readany() == b"a"
    opened._pieces.clear()
    opened._told = True  # told already, says the flag; nobody will tell again
    opened.put(b"b")
    opened._pieces.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await opened.readany()
