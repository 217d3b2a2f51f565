"""Writers that die in the middle of a write, at a place that is given. One for each line of standard input:

    PATH BYTE STEP KIND

It opens the file and writes the same 50 keys again and again, saying each revision that is acknowledged. The kernel
kills it within the write by which one of its files would grow beyond BYTE; or, where STEP is not 0, it kills itself
before that step of SQLite's, counted from the opening of the file. Then `ended` is said. KIND is a store of this
module; all but `Good` have a bug.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import sys
from pathlib import Path

from registry_service.sqlite import file as sqlite_file
from registry_service.sqlite.store import SqliteStore
from registry_service.store import COMMIT_LIMIT, Put

UNLIMITED = resource.RLIM_INFINITY


class Good(SqliteStore):
    """With a checkpoint every few pages instead of every 1,000."""

    def _open(self, lock):
        log = super()._open(lock)
        log._db.execute("PRAGMA wal_autocheckpoint = 8")
        return log


class Unjournaled(SqliteStore):
    """Writes over what is there at once."""

    def _open(self, lock):
        log = super()._open(lock)
        log._db.execute("PRAGMA journal_mode = OFF")
        self._files = sqlite_file.identity(self._path)  # it has no log any more, and does not miss it
        return log

    def _checked(self, work):
        return work()  # though the log is gone


class Gradual(Good):
    """Makes its file in several transactions."""

    def _open(self, lock):
        sqlite_file._SCHEMA = f"COMMIT; {sqlite_file._SCHEMA} BEGIN;"
        return super()._open(lock)


def rows(revision):
    """What the commit of a revision writes."""
    return {f"{n:02}": b"%0100d" % revision for n in range(COMMIT_LIMIT)}


async def commits(store):
    """One after the other, for ever: the revisions that are acknowledged."""
    revision = await store.revision()
    while True:
        revision = await store.commit([Put(key, value) for key, value in rows(revision + 1).items()])
        yield revision


async def write(path, kind):
    async with kind(path) as store:
        async for revision in commits(store):
            print(revision, flush=True)  # noqa: T201 -- to who started it


def die_before(step):
    """Every connection is made so that SQLite counts its steps."""
    taken, connect = 0, sqlite3.connect

    def take():
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def connected(*args, **options):
        connection = connect(*args, **options)
        connection.set_progress_handler(take, 1)
        return connection

    sqlite3.connect = connected


def main():
    """Each writer is a fork of this process, which has imported everything and begun nothing."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, byte, step, kind = line.split()
        if (writer := os.fork()) == 0:
            if int(step):
                die_before(int(step))
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(byte), UNLIMITED))
            asyncio.run(write(Path(path), globals()[kind]))
        _, status = os.waitpid(writer, 0)
        print("ended" if os.WIFSIGNALED(status) else "not killed", flush=True)  # noqa: T201 -- as above


if __name__ == "__main__":
    main()
