"""The file of SQLite's store: what is taken for one, and by whom."""

import os
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry_service.sqlite import lock
from registry_service.sqlite.path import make_folder, path_of
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from registry_service.stores import open_store
from stackmesh.errors import RegistryUnreachable
from stackmesh.process import StartError
from tests.contracts.sqlite import SqliteStores


@pytest.fixture
def stores(tmp_path):
    return SqliteStores(tmp_path)


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
