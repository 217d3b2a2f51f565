"""Whether a backend stops soon after a call to it was left, in every way in which one can be left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from tests.contracts.inference_provider.subject import Subject

CANCEL_LIMIT = 0.4
"""Seconds within which the backend has to have stopped."""
PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""


async def until(condition: Callable[[], Awaitable[bool]], limit: float, what: str) -> None:
    try:
        async with asyncio.timeout(limit):
            while not await condition():  # noqa: ASYNC110 -- a backend in another process sets no asyncio.Event
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"not within {limit} s: {what}")


async def busy(subject: Subject, count: int = 1) -> None:
    async def condition() -> bool:
        return await subject.working() >= count

    await until(condition, PATIENCE, f"the backend works on {count}")


async def stopped(subject: Subject, limit: float = CANCEL_LIMIT) -> None:
    async def condition() -> bool:
        return await subject.working() == 0

    await until(condition, limit, "the backend has stopped")


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


Leave = Callable[[Subject], Awaitable[None]]


async def check_stops(subject: Subject, leave: Leave, attempts: int = 3) -> None:
    """Soon after a call was left, the backend is idle. Also run against planted bugs.

    A machine with other work may be late once; a backend that goes on is late always.
    """
    for _ in range(attempts - 1):
        await leave(subject)
        try:
            await stopped(subject)
        except pytest.fail.Exception:
            await stopped(subject, PATIENCE)
        else:
            return
    await leave(subject)
    await stopped(subject)


async def leave_reading(subject: Subject) -> None:
    """Cancelled while its prompt is read."""
    task = asyncio.ensure_future(subject.provider.stream_chat_completion(subject.long_prompt()))
    await busy(subject)
    await cancelled(task)


async def leave_decoding(subject: Subject) -> None:
    """Closed after its first text."""
    async with aclosing(await subject.provider.stream_chat_completion(subject.long_chat())) as stream:
        async for response in stream:
            if response.event.text:
                break
        assert await subject.working() == 1, "the first token came when the last had been generated"


async def leave_untaken(subject: Subject) -> None:
    """Closed before its first item is taken."""
    await (await subject.provider.stream_chat_completion(subject.long_chat())).aclose()


async def leave_untaken_completion(subject: Subject) -> None:
    request = subject.completion("Once upon a time", max_tokens=200)
    await (await subject.provider.stream_completion(request)).aclose()


async def leave_unary(subject: Subject) -> None:
    task = asyncio.ensure_future(subject.provider.chat_completion(subject.long_chat()))
    await busy(subject)
    await cancelled(task)


async def leave_unary_completion(subject: Subject) -> None:
    request = subject.completion("Once upon a time", max_tokens=200)
    task = asyncio.ensure_future(subject.provider.completion(request))
    await busy(subject)
    await cancelled(task)


async def leave_consumer(subject: Subject) -> None:
    """The task that reads the stream is cancelled."""

    async def consume() -> None:
        async with aclosing(await subject.provider.stream_chat_completion(subject.long_chat())) as stream:
            async for _ in stream:
                pass

    task = asyncio.ensure_future(consume())
    await busy(subject)
    await cancelled(task)


async def leave_at_the_deadline(subject: Subject) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await subject.provider.chat_completion(subject.long_chat())


async def check_closed_decoding(subject: Subject, attempts: int = 3) -> None:
    await check_stops(subject, leave_decoding, attempts)
