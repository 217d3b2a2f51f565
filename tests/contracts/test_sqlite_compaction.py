"""Compacting SQLite's log: step by step, and nobody waits for it."""

import asyncio
import sys

import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from stackmesh.errors import RevisionGone
from tests.contracts.sqlite import SqliteStores
from tests.contracts.store import everything
from tests.waiting import until


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


async def left_half_way(stores, forget):
    """Whether what can be read stays the same through a compaction, however far it has got; and what it leaves."""
    async with stores.open() as store:
        for n in range(12):
            changes = [Put(f"k{n % 3}", b"%d" % n), Delete(f"k{(n + 1) % 3}"), Put(f"n{n}", b""), Delete(f"n{n - 3}")]
            await store.commit(changes)
        await store.commit([Delete(f"n{n}") for n in (9, 10, 11)])
        before = await everything(store), await everything(store, 11)
        same = await store._run(store._log.compact, 11)
        following = 0
        while following < 11:
            following = await store._run(forget, store._log, following, 11)
            same = same and before == (await everything(store), await everything(store, 11))
        await store.compact(13)
        rows = await store._run(lambda: store._log._db.execute("SELECT key, value FROM log").fetchall())
        return same, sorted(key for key, value in rows if value is None), len(rows)


async def test_a_compaction_can_be_left_half_way(stores):
    same, deleted, rows = await left_half_way(stores, lambda log, start, upto: log.forget(start, upto, rows=1))
    assert same
    assert deleted == ["n10", "n11", "n9"]  # the last commit's, which can still be watched
    assert rows == len(deleted) + 2


def deletions_first(log, start, upto):
    log._db.execute("DELETE FROM log WHERE revision < ? AND value IS NULL", (upto,))
    return log.forget(start, upto, rows=1)


async def test_that_check_finds_a_compaction_that_forgets_deletions_first(stores):
    assert not (await left_half_way(stores, deletions_first))[0]


async def a_read_waits_for_a_compaction(stores, kind):
    """Whether what is asked once it has begun is answered only when it is over."""
    async with kind(stores.path) as store:
        rows = [(f"k{n % 70}", 1 + n // 50, b"") for n in range(20_000)]

        def fill():
            with store._log._transaction():
                store._log._db.executemany("INSERT INTO log (key, revision, value, lease) VALUES (?, ?, ?, 0)", rows)
                store._log._db.execute("UPDATE meta SET revision = 400")

        await store._run(fill)
        compaction = asyncio.create_task(store.compact(400))
        await until(lambda: compacted(store, 1))
        over = compaction.done()
        await compaction
        assert len((await store.list("", revision=400)).rows) == 70
        return over


async def compacted(store, revision):
    try:
        await store.list("", limit=1, revision=revision)
    except RevisionGone:
        return True
    return False


async def test_nobody_waits_long_for_a_compaction(stores):
    assert not await a_read_waits_for_a_compaction(stores, SqliteStore)


class AtOnce(SqliteStore):
    async def compact(self, revision):
        def whole():
            self._log.compact(revision)
            self._log.forget(0, revision, rows=sys.maxsize)

        await self._run(whole)


async def test_that_check_finds_a_compaction_that_everybody_waits_for(stores):
    assert await a_read_waits_for_a_compaction(stores, AtOnce)
