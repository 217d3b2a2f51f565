"""Every task has an owner: the block that started it, and that waits for its end.

What goes on for ever looks after itself: what may go wrong it tries again. That it ends all the same is a bug, and
never silent: the loop's exception handler logs it, and whoever runs the process hears of it through `failing`. A
process of the mesh stops then, as if it had been asked to, and is started anew by who keeps it running: rather that
than one that answers calls without its reflector.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

_VITAL: Final = "vital task"
"""The key in an exception handler's context of the name of a task that should not have ended."""


@asynccontextmanager
async def background(
    work: Coroutine[Any, Any, None], name: str, *, vital: bool = True
) -> AsyncGenerator[asyncio.Task[None]]:
    """Runs `work` while the body runs, then cancels it and waits. A failure of the work is logged when it happens.

    What serves one call, one stream or one name alone is not `vital`: nobody else has to suffer for it.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(partial(_report, vital=vital))
    try:
        yield task
    finally:
        task.cancel()
        await _end(task)


async def _end(task: asyncio.Task[None]) -> None:
    """Wait for it. Who is cancelled meanwhile passes that on, goes on waiting, and is cancelled when it has ended."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait([task])  # what it failed with has been logged
        except asyncio.CancelledError as error:
            cancelled = error
            task.cancel()
    if cancelled is not None:
        raise cancelled


@contextmanager
def failing(tell: Callable[[str], None]) -> Generator[None]:
    """While the body runs in this loop, `tell` hears the names of vital tasks that fail, after the log has."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        if _VITAL in context:
            tell(context[_VITAL])

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


def _report(task: asyncio.Task[None], *, vital: bool) -> None:
    vital = vital and not task.cancelling()  # who is being ended may fail at that
    error: BaseException | None
    try:
        error = task.exception()
    except asyncio.CancelledError as cancelled:
        error = cancelled if vital else None  # grpc.aio raises it, unasked, of a call whose channel was closed
    if error is not None:
        context = {"message": f"task {task.get_name()} failed", "exception": error, "task": task}
        if vital:
            context[_VITAL] = task.get_name()
        task.get_loop().call_exception_handler(context)
