import asyncio
import os
import signal
import sqlite3
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry_service.sqlite import SqliteStore
from registry_service.sqlite_file import path_of
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable, Unavailable
from stackmesh.process import StartError
from tests.contracts.store import LIMIT, StoreContract, collect, everything, one_wins


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class SqliteStores:
    def __init__(self, folder):
        self.path = folder / "deep" / "registry.db"
        self.clock = Clock()

    def open(self):
        return SqliteStore(self.path, clock=self.clock, checkpoint_seconds=0.02, sweep_seconds=0.01)

    async def pass_time(self, seconds):
        self.clock.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


class TestSqliteStore(StoreContract):
    """SQLite keeps the whole contract."""


class Careless(SqliteStore):
    async def commit(self, ops, *, expect=None):
        return await super().commit(ops)


async def test_the_race_check_finds_a_store_that_does_not_compare(tmp_path):
    async with Careless(tmp_path / "careless.db") as store:
        with pytest.raises(AssertionError):
            await one_wins([store, store], rounds=5)


# The file


@pytest.mark.parametrize(
    ("url", "path"), [("sqlite:///a/b.db", Path("a/b.db")), ("sqlite:////var/b.db", Path("/var/b.db"))]
)
def test_the_url_is_relative_with_three_slashes_and_absolute_with_four(url, path):
    assert path_of(url) == path


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite://a", "etcd://a", ""])
def test_other_urls_are_refused(url):
    with pytest.raises(StartError, match="write sqlite:///PATH"):
        path_of(url)


async def test_the_folder_is_created_and_only_the_owner_reads_the_file(stores):
    async with stores.open() as store:
        await store.commit([Put("a", b"1")])
        files = list(stores.path.parent.iterdir())
        assert {f.name for f in files} >= {"registry.db", "registry.db-wal", "registry.db.lock"}
        assert {oct(f.stat().st_mode & 0o777) for f in files} == {"0o600"}


async def test_a_second_registry_is_refused_and_the_first_goes_on(stores):
    async with stores.open() as store:
        with pytest.raises(StartError, match=rf"in use by another registry \(pid {os.getpid()}\)"):
            async with stores.open():
                pass
        await store.commit([Put("a", b"1")])
    async with stores.open() as store:
        assert await store.get("a")


async def refused(path, match):
    with pytest.raises(StartError, match=match):
        async with SqliteStore(path):
            pass


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database" * 100)
    await refused(path, "notes.txt cannot be used: file is not a database")
    assert path.read_text() == "not a database" * 100


async def test_a_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    await refused(path, "another program's database")


async def test_a_database_of_a_later_version_is_refused(stores):
    async with stores.open():
        pass
    db = sqlite3.connect(stores.path)
    db.execute("PRAGMA user_version = 9")
    db.close()
    await refused(stores.path, "of version 9, this registry writes version 1")


async def test_a_database_that_lost_a_table_is_refused(stores):
    async with stores.open():
        pass
    db = sqlite3.connect(stores.path)
    db.execute("DROP TABLE meta")
    db.close()
    await refused(stores.path, "is damaged: no such table: meta")


async def test_a_folder_in_the_way_is_refused(tmp_path):
    (tmp_path / "db").mkdir()
    await refused(tmp_path / "db", "cannot be opened for writing: Is a directory")
    (tmp_path / "file").write_text("")
    await refused(tmp_path / "file" / "registry.db", "cannot be created")


@contextmanager
def folder_of(mode):
    """A folder of that mode, and no privileges while the body runs: root may write anywhere."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry.db").write_bytes(b"")
        (folder / "registry.db").chmod(0o444)
        folder.chmod(mode)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o700)


async def test_a_folder_without_permission_is_refused():
    with folder_of(0o555) as folder:
        await refused(folder / "registry.db", "cannot be created: Permission denied")
        await refused(folder / "sub" / "registry.db", "cannot be created: Permission denied")


async def test_a_file_that_cannot_be_written_is_refused():
    with folder_of(0o777) as folder:
        await refused(folder / "registry.db", "cannot be opened for writing: Permission denied")


# Life and death


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


WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from registry_service.sqlite import SqliteStore
from registry_service.store import Put

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        for n in itertools.count():
            revision = await store.commit([Put(f"{n % 7}/a", b"%d" % n), Put(f"{n % 7}/b", b"%d" % n)])
            print(revision, n, flush=True)
            if n % 5 == 4:
                await store.compact(revision - 3)

asyncio.run(main())
"""


async def write_and_die(path, lines):
    """Starts a writer, kills it after it has acknowledged `lines` writes; returns the last one acknowledged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout
    async with asyncio.timeout(30):
        for _ in range(lines):
            last = await process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
    last = ([last] + [line for line in rest if line.endswith(b"\n")])[-1]
    return tuple(map(int, last.split()))


async def survives_kills(path, rounds):
    before = 0
    for number in range(rounds):
        acknowledged, written = await write_and_die(path, 1 + number % 9)
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


async def test_every_acknowledged_write_survives_kill_9(tmp_path):
    await survives_kills(tmp_path / "registry.db", rounds=5)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_acknowledged_write_survives_kill_9_50_times(tmp_path):
    await survives_kills(tmp_path / "registry.db", rounds=50)
