import asyncio
import math
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from registry_service.mirror.source import StoreSource
from registry_service.sqlite import lock
from registry_service.sqlite.path import make_folder, path_of
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from registry_service.stores import open_store
from stackmesh.errors import RegistryUnreachable, RevisionGone, StoreFull, Unavailable
from stackmesh.process import StartError
from stackmesh.reflector import Reflector
from stackmesh.tasks import background
from tests.contracts.store import LIMIT, StoreContract, collect, everything, one_wins
from tests.scale import full
from tests.waiting import until


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class SqliteStores:
    second = 1.0

    def __init__(self, folder):
        self.path = folder / "deep" / "registry.db"
        self.clock = Clock()

    def open(self):
        return SqliteStore(self.path, clock=self.clock, checkpoint_seconds=0.02, sweep_seconds=0.01)

    async def pass_time(self, seconds):
        self.clock.now += seconds
        await asyncio.sleep(0)

    async def away(self, seconds):
        self.clock.now += seconds


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


# Compaction


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


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        *((url, "names no file") for url in ("sqlite:///", "sqlite:///.", "sqlite:////")),
        *((f"sqlite:///{name}", "would forget everything") for name in (":memory:", ":memory:?cache=shared", "::")),
        ("sqlite:///r.db?mode=ro", "there are no options"),
        *((url, "is not the address of a store") for url in ("sqlite://a", "postgres://a", "registry.db", "")),
    ],
)
def test_other_urls_are_refused(url, problem):
    with pytest.raises(StartError, match=f"^registry.store: .*{problem}.*; write sqlite:///PATH"):
        open_store(url)


@pytest.mark.parametrize("url", ["etcds://me:s3cret@h/m", "etcd:/me:s3cret@h/m", "sqlite://me:s3cret@h/m?x"])
def test_a_url_that_is_refused_is_never_shown(url):
    with pytest.raises(StartError) as raised:
        open_store(url)
    assert "s3cret" not in str(raised.value)


async def test_the_folder_is_created_and_only_the_owner_reads_the_file(stores):
    async with stores.open() as store:
        await store.commit([Put("a", b"1")])
        files = list(stores.path.parent.iterdir())
        assert {f.name for f in files} >= {"registry.db", "registry.db-wal", "registry.db.lock"}
        assert {oct(f.stat().st_mode & 0o777) for f in files} == {"0o600"}


def test_new_folders_survive_a_loss_of_power(tmp_path):
    """Each name is in a folder that was written to the disk after it."""
    there = []
    make_folder(tmp_path / "a" / "b" / "c", sync=lambda folder: there.append([folder, *folder.iterdir()]))
    a = tmp_path / "a"
    assert there == [[tmp_path, a], [a, a / "b"], [a / "b", a / "b" / "c"]]
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "d")


async def test_a_second_registry_is_refused_and_the_first_goes_on(stores):
    async with stores.open() as store:
        with pytest.raises(StartError, match=rf"in use by another registry \(pid {os.getpid()}\)"):
            async with stores.open():
                pass
        await store.commit([Put("a", b"1")])
    async with stores.open() as store:
        assert await store.get("a")


@pytest.mark.parametrize("link", ["other.db", "folder/registry.db"])
async def test_a_second_registry_is_refused_by_whatever_name(stores, tmp_path, link):
    """A link to the file, or to its folder."""
    link = tmp_path / link
    target = stores.path if link.parent == tmp_path else stores.path.parent
    (link if target == stores.path else link.parent).symlink_to(target)
    async with stores.open() as store:
        await refused(link, "in use by another registry")
        await store.commit([Put("a", b"1")])
    async with SqliteStore(link) as store:
        assert await store.get("a")
        await refused(stores.path, "in use by another registry")


async def test_links_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a.db").symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    await refused(tmp_path / "a.db", "cannot be")


def test_that_a_lock_cannot_be_had_is_not_told_as_another_registry(tmp_path):
    fd = os.open(tmp_path, os.O_PATH)  # which nobody can lock
    try:
        with pytest.raises(StartError, match="cannot be locked: Bad file descriptor"):
            lock.Lock(fd, tmp_path / "registry.db")
    finally:
        os.close(fd)


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


async def test_a_database_that_lost_its_place_is_refused(stores):
    async with stores.open():
        pass
    db = sqlite3.connect(stores.path)
    db.execute("DELETE FROM meta")
    db.commit()
    db.close()
    await refused(stores.path, "is damaged: the table meta is empty")


async def test_that_the_place_was_lost_meanwhile_is_an_error_of_the_store(stores):
    async with stores.open() as store:
        await store._run(store._log._db.execute, "DELETE FROM meta")
        with pytest.raises(RegistryUnreachable, match="the table meta is empty"):
            await store.commit([Put("a", b"1")])


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
        async with asyncio.timeout(4):  # promised are 3 s
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


async def read_on_over_a_restored_copy(stores, kind=SqliteStore):
    """A reader that goes on where it was, though the file is an older copy of itself: whether it has what is there."""
    view = Copied()
    async with stores.open() as store:
        await store.commit([Put("model/kept", b"")])
    copy = stores.path.read_bytes()
    async with kind(stores.path) as store:
        await store.commit([Put("model/lost", b"")])
        async with background(Reflector(StoreSource(store), view).run(), "reader"):
            await until(lambda: "model/lost" in view.keys)
        start, of = await store.revision() + 1, await store.store_id()
    stores.path.write_bytes(copy)
    async with kind(stores.path) as store:
        for n in range(3):
            await store.commit([Put(f"model/new-{n}", b"")])
        source = StoreSource(store)
        try:
            async with asyncio.timeout(LIMIT), aclosing(source.watch(start, of)) as responses:
                view.apply((await anext(responses)).changes, 0)
        except RevisionGone:
            view.replace((await source.list()).entries, 0)
        there = {row.key for row in (await store.list("")).rows}
    return view.keys == there


class Copied:
    """A View: the keys there are."""

    def __init__(self):
        self.keys = set()

    def replace(self, entries, revision):
        self.keys = {entry.key for entry in entries}

    def apply(self, changes, revision):
        self.keys |= {change.entry.key for change in changes}


async def test_a_restored_file_is_another_store(stores):
    assert await read_on_over_a_restored_copy(stores)


class KeepsItsId(SqliteStore):
    async def store_id(self):
        return (await super().store_id()).partition("-")[0]


async def test_that_check_finds_a_store_that_keeps_its_id(stores):
    assert not await read_on_over_a_restored_copy(stores, KeepsItsId)


async def acknowledges_nothing_without_its_file(path, suffix, *, replaced, kind=SqliteStore):
    """Every call is refused once a file of an open store was deleted, or another one stands in its place."""
    async with kind(path, sweep_seconds=0.01) as store:
        await store.commit([Put("a", b"1")])
        victim = path.with_name(path.name + suffix)
        victim.rename(victim.with_suffix(".old"))
        if replaced:
            victim.write_bytes(b"")
        for call in (lambda: store.commit([Put("b", b"1")]), lambda: store.get("a"), lambda: anext(store.watch(1))):
            with pytest.raises(RegistryUnreachable, match="was deleted or replaced while it was open: restart"):
                await call()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_nothing_is_acknowledged_once_a_file_is_gone(stores, suffix, replaced):
    await acknowledges_nothing_without_its_file(stores.path, suffix, replaced=replaced)


class NeverLooks(SqliteStore):
    def _checked(self, work):
        return work()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_that_check_finds_a_store_that_never_looks_for_its_files(stores, suffix, replaced):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await acknowledges_nothing_without_its_file(stores.path, suffix, replaced=replaced, kind=NeverLooks)


async def test_a_registry_that_is_stopped_keeps_what_was_in_a_log_that_is_gone(stores):
    async with stores.open() as store:
        await store.commit([Put("a", b"1")])
        stores.path.with_name("registry.db-wal").unlink()
    async with stores.open() as store:
        assert await everything(store) == {"a": b"1"}


DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put

async def main():
    async with SqliteStore(Path(sys.argv[1])) as store:
        await store.commit([Put("new", b"1")])
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def killed(path):
    """A registry's file whose last write is in its log alone; returns a copy from before it."""
    async with SqliteStore(path) as store:
        await store.commit([Put("old", b"1")])
    copy = Path(shutil.copy(path, path.with_suffix(".copy")))
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, str(path), cwd=Path(__file__).parents[2])
    assert await process.wait() == -signal.SIGKILL
    return copy


async def restored(path, kind=SqliteStore):
    """What is there when the copy has been put in the place of the file, and nothing else done."""
    (await killed(path)).rename(path)
    async with kind(path) as store:
        return await everything(store)


async def test_a_log_is_not_taken_for_that_of_the_file_in_the_place_of_its_own(stores):
    with pytest.raises(StartError, match=r"has been replaced, and .*registry.db-wal belongs to the file before it"):
        await restored(stores.path)
    for suffix in ("-wal", "-shm"):  # as the message says
        stores.path.with_name(f"registry.db{suffix}").unlink()
    async with stores.open() as store:
        assert await everything(store) == {"old": b"1"}


class Trusting(SqliteStore):
    def _open(self, lock):
        lock.note = ""
        return super()._open(lock)


async def test_that_check_finds_a_store_that_takes_any_log(stores):
    assert await restored(stores.path, Trusting) == {"old": b"1", "new": b"1"}


async def test_a_log_that_stands_beside_its_file_is_taken(stores, tmp_path):
    """Also where both were copied to."""
    await killed(stores.path)
    copy = shutil.copytree(stores.path.parent, tmp_path / "copy")
    for path in (stores.path, copy / "registry.db"):
        async with SqliteStore(path) as store:
            assert await everything(store) == {"old": b"1", "new": b"1"}


class Counts(SqliteStore):
    tries = 0

    def _checked(self, work):
        self.tries += 1
        return super()._checked(work)


async def test_that_the_file_is_gone_is_said_once(stores, caplog):
    async with Counts(stores.path, sweep_seconds=0.01) as store:
        stores.path.unlink()
        store.tries = 0
        await until(lambda: store.tries > 5)
        assert caplog.text.count("leases could not be swept") == 1


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
