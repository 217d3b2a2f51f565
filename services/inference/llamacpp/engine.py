"""Calls that block, for callers that do not: a bounded queue, a few threads, and a way to stop each call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from services.inference.llamacpp.server import Callback, Message
from stackmesh.errors import QueueFull, ShuttingDown

RETRY_AFTER: Final = 1.0
"""Seconds after which a caller who met a full queue may try again."""

Call = Callable[[Callback], None]
"""Blocks until llama.cpp is done, has failed, or its callback returned True."""


class Run:
    """One call in its thread. `take` and `stop` belong to the event loop, the rest to the thread."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._arrived: list[Message] = []
        self._news = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None
        self._stopped = False

    async def take(self) -> list[Message]:
        """The messages that came since the last time, at least one; none when the call is over.

        Raises what the call raised.
        """
        await self._news.wait()
        arrived, self._arrived = self._arrived, []
        if not self._ended:
            self._news.clear()
        if not arrived and self._failure is not None:
            raise self._failure
        return arrived

    def stop(self) -> None:
        """The call ends with llama.cpp's next message."""
        self._stopped = True

    def __call__(self) -> None:
        failure: Exception | None = None
        try:
            self._call(self._hear)
        except Exception as error:  # noqa: BLE001 -- it is raised where the call is awaited
            failure = error
        self._loop.call_soon_threadsafe(self._end, failure)

    def _hear(self, message: Message) -> bool:
        if not self._stopped:
            self._loop.call_soon_threadsafe(self._arrive, message)
        return self._stopped

    def _arrive(self, message: Message) -> None:
        self._arrived.append(message)
        self._news.set()

    def _end(self, failure: Exception | None) -> None:
        self._ended, self._failure = True, failure
        self._news.set()


class Engine:
    """`slots` calls at a time, at most `max_queue` more waiting. `async with` closes it when all calls have ended."""

    def __init__(self, slots: int, max_queue: int, run: Callable[[Call], Run] = Run) -> None:
        self._free = asyncio.Semaphore(slots)
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="llamacpp")
        self._max_queue = max_queue
        self._run = run
        self._waiting = 0
        self._running: set[Run] = set()
        self._closing = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closing = True
        for run in self._running:
            run.stop()
        await asyncio.to_thread(self._threads.shutdown)

    @property
    def running(self) -> int:
        """Calls that hold a slot. A stopped call holds it until its thread has left llama.cpp."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        return self._waiting

    @asynccontextmanager
    async def run(self, call: Call) -> AsyncGenerator[Run]:
        """The call, begun; leaving the block stops it. Raises QueueFull at once, waits for a slot otherwise."""
        await self._slot()
        run = self._run(call)
        self._running.add(run)
        future = asyncio.get_running_loop().run_in_executor(self._threads, run)
        future.add_done_callback(lambda _: self._release(run))
        try:
            yield run
        finally:
            run.stop()

    async def _slot(self) -> None:
        if self._free.locked() and self._waiting >= self._max_queue:
            raise QueueFull(f"{self._waiting} requests are waiting for the model", retry_after=RETRY_AFTER)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        if self._closing:
            self._free.release()
            raise ShuttingDown("the model is being unloaded")

    def _release(self, run: Run) -> None:
        self._running.discard(run)
        self._free.release()

    def __repr__(self) -> str:
        state: dict[str, Any] = {"running": self.running, "waiting": self._waiting, "closing": self._closing}
        return f"Engine({', '.join(f'{key}={value}' for key, value in state.items())})"
