"""SQLite's leases end whatever happens to the disk, and only then."""

import math

import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import StoreFull
from tests.contracts.sqlite import SqliteStores
from tests.contracts.store import LIMIT
from tests.waiting import until


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


async def leave_pages(store, count):
    """The disk has room for that many pages more."""

    def limit():
        (pages,) = store._log._db.execute("PRAGMA page_count").fetchone()
        store._log._db.execute(f"PRAGMA max_page_count = {pages + count}")

    await store._run(limit)


async def leases_end_on_a_full_disk(stores, caplog, kind, seconds):
    """One that there is no room to end holds up nobody, and ends when there is room."""
    async with kind(stores.path, clock=stores.clock, sweep_seconds=0.01) as store:
        large, small = await store.grant(10), await store.grant(10)
        await store.commit([Put(f"large/{n:0300}", b"", large) for n in range(50)])
        await store.commit([Put("small", b"", small)])
        await leave_pages(store, 3)
        await stores.pass_time(11)
        await until(lambda: "leases could not be swept: the registry's store is full" in caplog.text, seconds)
        await until(lambda: gone(store, "small"), seconds)
        assert len((await store.list("large/")).rows) == 50
        await leave_pages(store, 1000)
        await until(lambda: gone(store, "large/"), seconds)
        assert caplog.text.count("leases could not be swept") == 1


async def gone(store, prefix):
    return not (await store.list(prefix)).rows


async def test_leases_end_when_a_full_disk_has_room_again(stores, caplog):
    await leases_end_on_a_full_disk(stores, caplog, SqliteStore, LIMIT)


class GivesUp(SqliteStore):
    async def _end_leases(self):
        if isinstance(problem := await super()._end_leases(), StoreFull):
            raise problem
        return problem


class StopsAtTheFirst(SqliteStore):
    async def _end_leases(self):
        try:
            for lease in await self._run(self._log.ended):
                await self._run(self._advance, self._log.revoke, lease)
        except StoreFull as problem:
            return problem
        return None


@pytest.mark.parametrize("kind", [GivesUp, StopsAtTheFirst])
async def test_that_check_finds_a_sweeper_that_one_failure_stops(stores, caplog, kind):
    with pytest.raises(TimeoutError):
        await leases_end_on_a_full_disk(stores, caplog, kind, 0.5)


async def alive_after_a_freeze(stores, *, forgets=False):
    """Whether a lease lives that had ended before, though nobody swept it, and one that had not."""
    async with SqliteStore(stores.path, clock=stores.clock, sweep_seconds=3600) as store:
        short, long = await store.grant(10), await store.grant(20)

        def freeze():
            stores.clock.now += 11
            store._log.ended()  # the last look
            stores.clock.now += 11
            store._log._looked -= 11
            if forgets:
                store._log._seen = -math.inf
            return store._log.keep_alive(short), store._log.keep_alive(long)

        return await store._run(freeze)


async def test_what_had_ended_gets_no_time_when_the_process_was_frozen(stores):
    assert await alive_after_a_freeze(stores) == (False, True)


async def test_that_check_finds_a_store_that_forgets_what_had_ended(stores):
    assert await alive_after_a_freeze(stores, forgets=True) == (True, True)
