"""The file of SQLite's store, deleted or replaced: while it is open, and while it is closed."""

import asyncio
import shutil
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import pytest

from registry_service.mirror.source import StoreSource
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable, RevisionGone
from stackmesh.process import StartError
from stackmesh.reflector import Reflector
from stackmesh.tasks import background
from tests.contracts.sqlite import SqliteStores
from tests.contracts.store import LIMIT, everything
from tests.waiting import until


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


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
