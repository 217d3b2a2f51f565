import asyncio

import pytest

from stackmesh.bell import Bell


async def test_all_who_wait_are_woken_and_who_comes_later_waits():
    bell = Bell()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(bell.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        bell.ring()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bell.wait()


async def test_who_looks_first_hears_what_rings_meanwhile():
    bell = Bell()
    following = bell.next
    bell.ring()
    await following.wait()
    assert not bell.next.is_set()
