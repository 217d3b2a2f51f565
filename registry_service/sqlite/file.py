"""The database file: which it is, and that it is ours."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from stackmesh.process import StartError

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
