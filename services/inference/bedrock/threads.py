"""Threads of our own for a library that blocks: as many calls at a time as there are threads.

A call is left at once when it is cancelled, and its connection closed; its thread, which then ends, counts as busy
until it has.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

from services.inference.bedrock.connections import Watch
from services.inference.bedrock.pipe import Pipe
from stackmesh.errors import QueueFull, ShuttingDown

T = TypeVar("T")
_PIECE: Final = 16 * 1024
"""Bytes that a thread reads at once, at most."""
_LINGER: Final = 0.1
"""Seconds to wait for the end of an answer that has said all it had to, so that its connection can be used again."""
_PREPARED_AT_ONCE: Final = 2
_TURN_PATIENCE: Final = 0.25
"""Seconds to wait for a turn. Whoever has one may be asking the network for credentials."""
_CLOSING: Final = 5.0
"""Seconds to wait for threads whose connections have been closed."""


class Threads:
    """`async with` starts and stops them. `patience`: seconds that a call waits for a free one."""

    def __init__(self, count: int, patience: float, name: str) -> None:
        self._count = count
        self._patience = patience
        self._name = name
        self._slots = asyncio.Semaphore(count)
        self._turns = threading.BoundedSemaphore(_PREPARED_AT_ONCE)
        self._running: dict[asyncio.Future[Any], Callable[[], None]] = {}
        """And how each is left."""
        self._closing = False

    async def __aenter__(self) -> Self:
        """Raises RuntimeError if the machine does not allow so many."""
        self._executor = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
        try:
            await asyncio.to_thread(self._start_all)
        except BaseException:
            self._executor.shutdown(wait=False, cancel_futures=True)
            raise
        return self

    def _start_all(self) -> None:
        """All threads now: whoever starts one waits for it, and later that would be the event loop."""
        together = threading.Barrier(self._count + 1)
        try:
            for _ in range(self._count):
                self._executor.submit(together.wait)
            together.wait()
        except BaseException:
            together.abort()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing = True
        for leave in self._running.values():
            leave()
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSING)
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Callable[[Watch], T], where: str) -> T:
        """What `work` returns or raises. Raises QueueFull when all threads stay busy."""
        watch = Watch()
        future = await self._start(work, watch, watch.leave, where)
        try:
            await asyncio.wait([future])  # which leaves it alone when it is cancelled itself
        except asyncio.CancelledError:
            watch.leave()
            raise
        return future.result()

    @asynccontextmanager
    async def stream(self, ask: Callable[[Watch], object], where: str) -> AsyncGenerator[Pipe]:
        """The body of the response that `ask` has got when it returns. What it raises, reading raises."""
        pipe, watch = Pipe(asyncio.get_running_loop()), Watch()

        def leave() -> None:
            watch.leave()
            pipe.close()

        future = await self._start(lambda watch: _pump(ask, watch, pipe), watch, leave, where)
        try:
            yield pipe
            await asyncio.wait([future], timeout=_LINGER)
        finally:
            if not future.done():
                leave()

    async def _start(
        self, work: Callable[[Watch], T], watch: Watch, leave: Callable[[], None], where: str
    ) -> asyncio.Future[T]:
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError:
            busy = f"all {self._count} connections to {where} are busy"
            raise QueueFull(busy, retry_after=1.0) from None
        if self._closing:
            self._slots.release()
            raise ShuttingDown("the provider is being closed")

        def looking() -> T:
            with _Turn(self._turns) as turn, watch.looking():
                watch.prepared = turn.end
                return work(watch)

        future = asyncio.wrap_future(self._executor.submit(looking))
        self._running[future] = leave
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[Any]) -> None:
        del self._running[future]
        self._slots.release()
        if not future.cancelled():
            future.exception()  # of a call that was left: nobody else will ask


class _Turn:
    """A thread's turn to prepare its request: 2 ms of work, for which it wants the interpreter.

    Were a hundred threads to want it at once, the event loop would have it a hundredth of the time.
    """

    def __init__(self, turns: threading.Semaphore) -> None:
        self._turns = turns
        self._has = False

    def __enter__(self) -> Self:
        self._has = self._turns.acquire(timeout=_TURN_PATIENCE)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """The network is waited for from now on."""
        if self._has:
            self._has = False
            self._turns.release()


def _pump(ask: Callable[[Watch], object], watch: Watch, pipe: Pipe) -> None:
    try:
        ask(watch)
        response = watch.response
        try:
            while piece := response.read1(_PIECE):
                pipe.put(piece)
        finally:
            watch.release()
            response.close()
    except BaseException as error:  # noqa: BLE001 -- the task raises it
        pipe.end(error)
    else:
        pipe.end()
