import asyncio
import signal
import sqlite3
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable, RevisionGone, StoreFull, Unavailable
from tests.contracts.sqlite import SqliteStores
from tests.contracts.store import LIMIT, StoreContract, collect, everything, one_wins
from tests.scale import full


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


class TestSqliteStore(StoreContract):
    """SQLite keeps the whole contract, and more."""

    async def test_there_are_no_gaps_between_revisions(self, store):
        assert await self.fill(store, 6) == [1, 2, 3, 4, 5, 6]
        assert (await store.list("")).revision == 6

    async def test_a_reader_whose_place_was_compacted_is_told(self, store):
        async with asyncio.timeout(LIMIT), aclosing(store.watch(1)) as watch:
            await self.fill(store, 1)
            await anext(watch)
            revisions = await self.fill(store, 5)
            await store.compact(revisions[-1])
            with pytest.raises(RevisionGone):
                await anext(watch)


class Careless(SqliteStore):
    async def commit(self, ops, *, expect=None):
        return await super().commit(ops)


async def test_the_race_check_finds_a_store_that_does_not_compare(tmp_path):
    async with Careless(tmp_path / "careless.db") as store:
        with pytest.raises(AssertionError):
            await one_wins([store, store], rounds=5)


# Life and death


@pytest.mark.parametrize("opened", [False, True])
async def test_a_store_that_is_not_open_answers_nothing(stores, opened):
    store = stores.open()
    if opened:
        async with store:
            pass
    for call in (store.store_id, store.revision, lambda: store.get("a"), lambda: anext(store.watch(1))):
        with pytest.raises(Unavailable, match="is closed"):
            await call()


async def test_a_closed_store_says_so_to_callers_and_watchers(stores):
    async with stores.open() as store:
        watch = store.watch(1)
        waiting = asyncio.create_task(anext(watch))
        waiting_long = asyncio.create_task(collect(store, 1, 1))
        async with asyncio.timeout(LIMIT):
            assert (await waiting).revision == 0  # a checkpoint: it is at the head
    with pytest.raises(Unavailable):
        await store.commit([Put("a", b"1")])
    async with asyncio.timeout(LIMIT):
        with pytest.raises(Unavailable):
            await waiting_long
        with pytest.raises(Unavailable):
            await anext(watch)


async def answers_while_the_disk_hangs(path, patience, limit):
    """Every call says so in time, and what was given up is not done later."""
    async with SqliteStore(path) as store:
        lease, going_on = await store.grant(60), threading.Event()
        usual, store._patience_seconds = store._patience_seconds, patience
        store._thread.submit(going_on.wait)
        calls = (
            *(store.commit([Put(f"a{n}", b"1")]) for n in range(3)),
            *(store.get("a0"), store.list(""), store.revision(), store.compact(0)),
            *(store.grant(1), store.keep_alive(lease), store.revoke(lease), anext(store.watch(1))),
        )
        try:
            async with asyncio.timeout(limit):
                answers = await asyncio.gather(*calls, return_exceptions=True)
        finally:
            going_on.set()
            store._patience_seconds = usual
        assert {type(answer) for answer in answers} == {RegistryUnreachable}
        assert f"did not answer within {patience} s: look at the disk of {path}" in str(answers[0])
        assert await store.revision() == 0
        assert await store.keep_alive(lease)


async def test_a_disk_that_hangs_is_told_in_time(stores):
    await answers_while_the_disk_hangs(stores.path, patience=0.1, limit=LIMIT)


async def test_that_check_finds_a_store_that_waits_for_ever(stores):
    with pytest.raises(TimeoutError):
        await answers_while_the_disk_hangs(stores.path, patience=60, limit=0.2)


async def test_who_holds_the_file_does_not_hold_up_everybody(stores):
    async with stores.open() as store:
        await store.commit([Put("a", b"1")])
        other = sqlite3.connect(stores.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(LIMIT):  # promised are 3 s, and one after the other they would take 20
            answers = await asyncio.gather(*(store.commit([Put("b", b"1")]) for _ in range(4)), return_exceptions=True)
        other.close()
        assert {type(answer) for answer in answers} == {RegistryUnreachable}
        assert "database is locked" in str(answers[0])
        assert await store.commit([Put("a", b"2")])


async def test_a_damaged_database_is_an_error_of_the_store(stores):
    async with stores.open() as store:
        db = sqlite3.connect(stores.path)
        db.execute("DROP TABLE log")
        db.close()
        with pytest.raises(RegistryUnreachable, match="no such table: log"):
            await store.commit([Put("a", b"1")])


async def test_a_commit_that_fails_half_way_leaves_nothing(stores):
    async with stores.open() as store:
        await store.commit([Put("a", b"1")])
        db = sqlite3.connect(stores.path)
        db.execute("CREATE TRIGGER full BEFORE INSERT ON log WHEN new.key = 'c' BEGIN SELECT RAISE(ABORT, 'full'); END")
        with pytest.raises(RegistryUnreachable, match="full"):
            await store.commit([Put("a", b"2"), Put("b", b"2"), Put("c", b"2")])
        db.execute("DROP TRIGGER full")
        db.close()
        assert await everything(store) == {"a": b"1"}
        assert await store.revision() == 1
        assert await store.commit([Put("c", b"3")]) == 2


class Cramped(SqliteStore):
    """On a disk with room for a few pages more."""

    def _open(self, lock):
        log = super()._open(lock)
        (pages,) = log._db.execute("PRAGMA page_count").fetchone()
        log._db.execute(f"PRAGMA max_page_count = {pages + 4}")
        return log


async def test_a_full_disk_changes_nothing_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "registry.db"
    async with Cramped(path) as store:
        revision = await store.commit([Put("a", b"1")])
        with pytest.raises(StoreFull, match=f"make room on the disk of {path}"):
            await store.commit([Put("a", b"2"), Put("b", b"x" * 100_000)])
        assert await everything(store) == {"a": b"1"}
        assert await store.revision() == revision
        assert await store.commit([Put("a", b"2")]) == revision + 1
    async with SqliteStore(path) as store:
        await store.commit([Put("b", b"x" * 100_000)])


WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from registry_service.stores import open_store

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        for n in itertools.count():
            revision = await store.commit([Put(f"{n % 7}/a", b"%d" % n), Put(f"{n % 7}/b", b"%d" % n)])
            print(revision, n, flush=True)
            if n % 5 == 4:
                await store.compact(revision - 3)

asyncio.run(main())
"""


# Acknowledges what is not yet written.
HASTY = WRITER.replace(
    "revision = await store.commit(",
    "print(await store.revision() + 1, n, flush=True)\n            "
    "await asyncio.sleep(0.05)\n            revision = await store.commit(",
)


async def write_and_die(path, lines, writer):
    """Starts a writer, kills it after it has acknowledged `lines` writes; returns the last one acknowledged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", writer, str(path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            for _ in range(lines):
                last = await process.stdout.readline()
    finally:
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
    last = ([last] + [line for line in rest if line.endswith(b"\n")])[-1]
    return tuple(map(int, last.split()))


async def survives_kills(path, rounds, writer=WRITER):
    before = 0
    for number in range(rounds):
        acknowledged, written = await write_and_die(path, 1 + number % 9, writer)
        async with SqliteStore(path) as store:
            revision = await store.revision()
            assert before < acknowledged <= revision <= acknowledged + 1
            found = await everything(store)
            last = written + revision - acknowledged
            for n in range(max(0, last - 6), last + 1):
                assert found[f"{n % 7}/a"] == found[f"{n % 7}/b"] == b"%d" % n
            assert [len(c.changes) for c in await collect(store, revision, revision)] == [2]
            before = revision
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()


@pytest.mark.timeout(300)
async def test_every_acknowledged_write_survives_kill_9(tmp_path):
    await survives_kills(tmp_path / "registry.db", rounds=full(50))


async def test_that_check_finds_a_writer_that_acknowledges_too_early(tmp_path):
    with pytest.raises(AssertionError):
        await survives_kills(tmp_path / "registry.db", rounds=1, writer=HASTY)


SMALL_FILES = """
import asyncio, resource, sys
from pathlib import Path
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from registry_service.stores import open_store
from stackmesh.errors import RegistryUnreachable

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        await store.commit([Put("a", b"1")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            await store.commit([Put("b", b"x" * 1_000_000)])
        except RegistryUnreachable as error:
            print(error.message)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(await store.commit([Put("a", b"2")]))

asyncio.run(main())
"""


async def test_a_limit_of_file_sizes_is_named(stores):
    """In a process of its own, whose files cannot grow for a while."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", SMALL_FILES, str(stores.path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    said, _ = await process.communicate()
    problem, revision = said.decode().splitlines()
    assert f"disk I/O error: look at the disk of {stores.path} and at the limit of file sizes" in problem
    assert revision == "2"
