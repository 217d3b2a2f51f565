"""One read for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedRead(Generic[T]):
    """However many ask, one `read` is in flight; it answers only those who asked before it was sent.

    So what it answers is never older than the question, and a thousand questions at once cost two reads.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._waiting: list[asyncio.Future[T]] = []
        self._asked = asyncio.Event()

    async def get(self) -> T:
        """The answer of a read that begins after this call. Raises what the read raises."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._asked.set()
        return await answer

    async def run(self) -> None:
        """Read for those who ask, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            try:
                value = await self._read()
            except Exception as error:  # noqa: BLE001 -- it is theirs who asked
                _give(waiting, lambda answer, error=error: answer.set_exception(error))
            else:
                _give(waiting, lambda answer, value=value: answer.set_result(value))


def _give(waiting: list[asyncio.Future[T]], give: Callable[[asyncio.Future[T]], None]) -> None:
    for answer in waiting:
        if not answer.done():  # who asked may have gone
            give(answer)
