"""A registry that is killed in the middle of a write: its file opens, has all that was acknowledged, and no half of it.

Every place is planned: kills at random mostly come between two writes.
"""

import sqlite3
import subprocess
import sys
from contextlib import aclosing, contextmanager
from itertools import cycle, pairwise
from pathlib import Path

import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable
from stackmesh.process import StartError
from tests.contracts.store import collect, everything
from tests.scale import full
from tests.unit.registry_service.sqlite.dying import Good, commits, rows

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[4]
INDEX_BYTES = 32_768
"""SQLite keeps an index of a log beside it, which has this size from the start."""
PLACE = 123_000
"""A byte to which a database that nobody compacts soon comes."""
MODULE = "tests.unit.registry_service.sqlite.dying"


def places(*ranges):
    """Some in each of these, mostly not where a page or a frame of a file begins."""
    count = full(100)
    chosen = zip(range(count), cycle(ranges), strict=False)
    return [first + 1 + (last - first - 1) * number // count for number, (first, last) in chosen]


def size(path, suffix=""):
    file = path.with_name(path.name + suffix)
    return file.stat().st_size if file.exists() else 0


async def grown(path, count):
    """The sizes of the database and of its log: when the file has been made, and after each of so many commits."""
    sizes = []
    async with Good(path) as store, aclosing(commits(store)) as made:
        for _ in range(count + 1):
            sizes.append((size(path), size(path, "-wal")))
            await anext(made)
    return sizes


@contextmanager
def writers():
    """A call that lets a writer die in a file, and gives the last revision it was acknowledged; 0: none."""
    command = (sys.executable, "-m", MODULE)
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def die(path, byte=0, step=0, kind="Good"):
            process.stdin.write(f"{path} {byte} {step} {kind}\n")
            process.stdin.flush()
            last = 0
            while (line := process.stdout.readline()) != "ended\n":
                assert line, "the writers have ended"
                last = int(line)
            return last

        yield die
        process.stdin.close()


async def intact(path, acknowledged):
    """The revision the file is at: that of what was acknowledged, or of the commit in which the writer died."""
    async with SqliteStore(path) as store:
        revision = await store.revision()
        assert acknowledged <= revision <= acknowledged + 1
        assert await everything(store) == (rows(revision) if revision else {})
        if revision:
            [commit] = await collect(store, revision, revision)
            assert {change.key: change.value for change in commit.changes} == rows(revision)
        assert await store.commit([Put("again", b"")]) == revision + 1
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_in_a_commit(tmp_path):
    """Within the write of the log, for the first commit of 50 rows."""
    (_, before), (_, after) = await grown(tmp_path / "alive.db", 1)
    with writers() as die:
        for byte in places((max(before, INDEX_BYTES), after)):
            path = tmp_path / f"{byte}.db"
            assert die(path, byte) == 0
            assert size(path, "-wal") == byte
            await intact(path, 0)


async def survive(folder, kind):
    """Nothing is lost or torn, at places to which the database of a writer of any kind comes."""
    with writers() as die:
        for byte in places((60_000, 120_000)):
            path = folder / f"{byte}.db"
            await intact(path, die(path, byte, kind=kind))


async def test_wherever_its_files_grow(tmp_path):
    await survive(tmp_path, "Good")


async def test_that_check_finds_a_store_without_a_journal(tmp_path):
    with pytest.raises((AssertionError, StartError, RegistryUnreachable)):
        await survive(tmp_path, "Unjournaled")


async def test_in_a_checkpoint(tmp_path):
    """Within the write of the database itself, where it grows by what is taken over from its log."""
    sizes = await grown(tmp_path / "alive.db", 20)
    taken_over = [(before, after) for (before, _), (after, log) in pairwise(sizes) if log < before < after]
    with writers() as die:
        for byte in places(*taken_over):
            path = tmp_path / f"{byte}.db"
            acknowledged = die(path, byte)
            assert acknowledged
            assert size(path) == byte > size(path, "-wal")
            await intact(path, acknowledged)


async def test_that_check_finds_a_file_whose_log_is_lost(tmp_path):
    with writers() as die:
        acknowledged = die(path := tmp_path / "r.db", PLACE)
        assert acknowledged
        path.with_name("r.db-wal").unlink()
        with pytest.raises((AssertionError, StartError, RegistryUnreachable)):
            await intact(path, acknowledged)


def steps():
    """Among those that SQLite takes to make the tables."""
    return [{"step": step} for step in places((0, 350))]


async def opens_again(folder, deaths, kind="Good"):
    """Whatever there is of the file, nothing was acknowledged, and it can be used."""
    with writers() as die:
        for number, how in enumerate(deaths):
            path = folder / f"{number}.db"
            assert die(path, kind=kind, **how) == 0
            await intact(path, 0)


async def test_while_its_file_is_made(tmp_path):
    """Within the first write of each of its files, and between the statements that make the tables."""
    [(_, made)] = await grown(tmp_path / "alive.db", 0)
    await opens_again(tmp_path, [*({"byte": byte} for byte in places((0, made))), *steps()])


async def test_that_check_finds_tables_that_are_made_one_by_one(tmp_path):
    with pytest.raises(StartError, match="is damaged: no such table"):
        await opens_again(tmp_path, steps(), kind="Gradual")
