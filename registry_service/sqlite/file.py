"""The database file: where it is, that it is ours, and that no other process has it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from stackmesh.process import StartError

SCHEME: Final = "sqlite:///"
APPLICATION_ID: Final = 0x736D7265  # "smre"; file(1) and sqlite itself tell files apart by it
VERSION: Final = 1
_BUSY_MILLISECONDS: Final = 1000
"""A statement waits for so long for somebody who is looking at the file, and all that are queued behind it with it."""

_SCHEMA: Final = """
CREATE TABLE log (
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  value BLOB,  -- NULL: deleted
  lease INTEGER NOT NULL,
  PRIMARY KEY (key, revision)
) WITHOUT ROWID;
CREATE INDEX log_revision ON log (revision);
CREATE INDEX log_lease ON log (lease) WHERE lease <> 0;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, ttl REAL NOT NULL);
CREATE TABLE meta (store_id TEXT NOT NULL, revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
INSERT INTO meta VALUES (lower(hex(randomblob(8))), 0, 0);
"""


def path_of(url: str) -> Path:
    """`sqlite:///relative/path` or `sqlite:////absolute/path` as a path. The StartError never shows what was written:
    there may be a password in it.
    """
    if not url.startswith(SCHEME):
        raise _wrong("is not the address of a store", also=" or etcd://HOST:PORT/PREFIX")
    written = url.removeprefix(SCHEME)
    if written.startswith(":"):
        raise _wrong("a store that is not in a file would forget everything when it is closed")
    if "?" in written:
        raise _wrong("there are no options (?...) of a file")
    if not (path := Path(written)).name:
        raise _wrong("names no file")
    return path


def _wrong(what: str, also: str = "") -> StartError:
    return StartError(f"registry.store: {what}; write {SCHEME}PATH{also}")


def real(path: Path) -> Path:
    """The file behind all links: under one name, so that it is locked, and its files found, under that name alone."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise StartError(f"the registry's store {path} cannot be found: {error}") from None


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Creates the file's folder and holds `PATH.lock` while the body runs. Raises StartError."""
    lock = path.with_name(path.name + ".lock")
    try:
        make_folder(path.parent)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the registry's store {path} cannot be created: {error.strerror}: {error.filename}") from None
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)  # which unlocks it


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path, mode: int = 0o700, sync: Callable[[Path], None] = _sync) -> None:
    """And those above it, each written to the disk with its name: SQLite sees to the names of its files alone."""
    if not folder.is_dir():
        make_folder(folder.parent, 0o777, sync)
        folder.mkdir(mode, exist_ok=True)
        sync(folder.parent)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
        raise StartError(f"the registry's store {path} is in use by another registry (pid {holder}); stop it") from None
    except OSError as error:
        raise StartError(
            f"the registry's store {path} cannot be locked: {error.strerror}; choose a folder on a disk of this machine"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)


def identity(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Which files are there now: the database, its log, and its log's index; None: none.

    What has been written last is in the log alone; and without the same index two who write do not know of each other.
    """
    return tuple(_identity(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def connect(path: Path) -> sqlite3.Connection:
    """The open database, made if there is none. Raises StartError if it cannot be written or is something else's."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StartError(f"the registry's store {path} cannot be opened for writing: {error.strerror}") from None
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        raise StartError(f"the registry's store {path} cannot be used: {error}") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
    if not _one(connection, "SELECT count(*) FROM sqlite_schema"):
        connection.execute("PRAGMA journal_mode = WAL")
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {marks} {_SCHEMA} COMMIT;")
    if _one(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StartError(f"{path} is another program's database; choose another registry.store")
    if (version := _one(connection, "PRAGMA user_version")) != VERSION:
        raise StartError(
            f"{path} is of version {version}, this registry writes version {VERSION}; choose another store"
        )
    connection.execute("PRAGMA synchronous = FULL")


def _one(connection: sqlite3.Connection, query: str) -> int:
    return connection.execute(query).fetchone()[0]
