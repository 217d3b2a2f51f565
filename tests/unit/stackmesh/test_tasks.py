"""A task belongs to the block that started it; that it has ended though it should go on is never silent."""

import asyncio
import logging

import pytest

from stackmesh.tasks import background, failing
from tests.waiting import until


async def for_ever(ended):
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)  # to be waited for
        ended.append("work")


async def fail():
    raise ValueError("a bug")


async def cancelled_by_what_it_waits_for():
    """As a call of grpc.aio whose channel is closed."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def test_it_ends_before_the_block_has():
    ended = []
    async with background(for_ever(ended), "work") as task:
        await asyncio.sleep(0)
        assert not task.done()
    assert task.cancelled()
    assert ended == ["work"]


async def test_what_ends_the_block_goes_on_as_it_is():
    ended = []

    async def body():
        async with background(for_ever(ended), "work"):
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        await body()
    assert ended == ["work"]


async def test_who_is_cancelled_in_the_block_is_cancelled():
    ended = []

    async def body():
        async with background(for_ever(ended), "work"):
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["work"]


async def test_a_block_whose_task_has_failed_goes_on():
    async with background(fail(), "work") as task:
        await until(task.done)


# Who hears of it


async def heard(work, caplog, *, ends=True, **options):
    """What is told, and logged, of work by which a block is not ended."""
    told = []
    with caplog.at_level(logging.ERROR), failing(told.append):
        async with background(work, "the work", **options) as task:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert task.done() is ends
        await asyncio.sleep(0)
    return told, "task the work failed" in caplog.text


@pytest.mark.parametrize("work", [fail, cancelled_by_what_it_waits_for])
async def test_a_task_that_fails_is_told_and_logged(work, caplog):
    assert await heard(work(), caplog) == (["the work"], True)


async def test_what_is_not_vital_is_only_logged(caplog):
    assert await heard(fail(), caplog, vital=False) == ([], True)


async def test_what_has_come_to_its_end_is_not_told(caplog):
    assert await heard(asyncio.sleep(0), caplog) == ([], False)


async def test_what_is_ended_with_its_block_is_not_told(caplog):
    assert await heard(for_ever([]), caplog, ends=False) == ([], False)


async def test_what_fails_while_it_is_ended_is_only_logged(caplog):
    async def stumble():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    assert await heard(stumble(), caplog, ends=False) == ([], True)


async def test_who_has_the_task_may_cancel_it(caplog):
    told = []
    with failing(told.append):
        async with background(for_ever([]), "the work") as task:
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0)
    assert told == []
    assert not caplog.records


async def test_other_things_that_go_wrong_in_the_loop_are_nobodys_end(caplog):
    told = []
    with failing(told.append):
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert told == []
    assert "ZeroDivisionError" in caplog.text


async def test_after_the_body_the_loop_is_as_before():
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    with failing([].append):
        assert loop.get_exception_handler() is not before
    assert loop.get_exception_handler() is before
