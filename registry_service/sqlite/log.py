"""The log of everything ever written: one row for each key and revision, until it is compacted.

Every method is one transaction and runs in the store's one SQL thread, so none can see, or leave, half of another.
"""

from __future__ import annotations

import logging
import math
import secrets
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from registry_service.store import COMMIT_LIMIT, Commit, Delete, Op, Page, Put, Row
from stackmesh.errors import Conflict, RevisionGone

log = logging.getLogger(__name__)

_GAP_SECONDS: Final = 2.0
"""Leases are looked at twice a second. Who has not done so for this long was frozen."""
_READ_AHEAD: Final = 2 * COMMIT_LIMIT
"""Rows a watcher reads at a time: always at least one whole revision."""
_SWEPT: Final = 20 * COMMIT_LIMIT
"""Rows a compaction looks at in one transaction, some milliseconds: everybody else waits for it."""

_LIST: Final = """
SELECT key, value, max(revision), lease FROM log
WHERE key > ? AND key >= ? AND key < ? AND revision <= ?
GROUP BY key HAVING value IS NOT NULL ORDER BY key LIMIT ?
"""  # with max(), SQLite takes the bare columns from the row that holds the maximum
_OF_LEASE: Final = """
SELECT key FROM log AS mine WHERE lease = ? AND value IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM log WHERE key = mine.key AND revision > mine.revision) ORDER BY key LIMIT ?
"""
_OVERWRITTEN: Final = """
DELETE FROM log WHERE revision >= :start AND revision < :end AND EXISTS (
  SELECT 1 FROM log AS newer WHERE newer.key = log.key AND newer.revision > log.revision AND newer.revision <= :upto)
"""
_TOMBSTONES: Final = "DELETE FROM log WHERE revision >= :start AND revision < :end AND value IS NULL"


@dataclass(slots=True)
class _Lease:
    ttl: float
    deadline: float


class Log:
    """The tables of an open database. `clock` gives seconds that only ever rise; leases live by it.

    While this process is frozen nobody can beat. When it notices that it was, every lease that had not ended
    before gets one full TTL, as after a restart.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._db = connection
        self._clock = clock
        self._looked, self._seen = time.monotonic(), -math.inf  # when, and what `clock` was then
        # Another one at each opening: while it was closed the file may have been replaced by an older copy of itself.
        self.store_id = f"{self._meta('store_id')}-{secrets.token_hex(4)}"
        rows = connection.execute("SELECT id, ttl FROM leases")
        self._leases = {lease: _Lease(ttl, clock() + ttl) for lease, ttl in rows}

    def close(self) -> None:
        self._db.close()

    def revision(self) -> int:
        return self._meta("revision")

    def get(self, key: str) -> Row | None:
        query = "SELECT key, value, revision, lease FROM log WHERE key = ? ORDER BY revision DESC LIMIT 1"
        found = self._db.execute(query, (key,)).fetchone()
        return Row(*found) if found is not None and found[1] is not None else None

    def list(self, prefix: str, after: str, limit: int, revision: int | None) -> Page:
        at = self.revision() if revision is None else self._readable(revision, self.revision())
        end = prefix + "\U0010ffff"  # after every ASCII key
        found = [Row(*row) for row in self._db.execute(_LIST, (after, prefix, end, at, limit + 1))]
        return Page(rows=tuple(found[:limit]), revision=at, more=len(found) > limit)

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int]) -> int:
        with self._transaction():
            for key, revision in expect.items():
                self._compare(key, revision)
            return self._append(ops)

    def commits(self, start: int) -> tuple[Sequence[Commit], int]:
        """Some whole revisions from `start` on, with the last revision there is."""
        head = self.revision()
        self._readable(start, head + 1)
        query = "SELECT revision, key, value, lease FROM log WHERE revision >= ? ORDER BY revision, key LIMIT ?"
        rows = self._db.execute(query, (start, _READ_AHEAD)).fetchall()
        commits = [_commit(revision, group) for revision, group in groupby(rows, key=lambda row: row[0])]
        return commits[:-1] if len(rows) == _READ_AHEAD else commits, head

    def compact(self, revision: int) -> bool:
        """From now on nothing older can be read. True: there may be something to `forget`."""
        head = self.revision()
        if revision > head:
            raise self._gone(revision, head)
        with self._transaction():
            if revision <= self._meta("compacted"):
                return False
            self._db.execute("UPDATE meta SET compacted = ?", (revision,))
        return True

    def forget(self, start: int, upto: int, rows: int = _SWEPT) -> int:
        """Delete what nobody can read any more, of about `rows` rows from the revision `start` on. Returns where to go
        on, `upto` at the end.

        In the order of revisions: a deletion is forgotten after, or together with, what it deleted.
        """
        query = "SELECT revision FROM log WHERE revision >= ? ORDER BY revision LIMIT 1 OFFSET ?"
        found = self._db.execute(query, (start, rows)).fetchone()
        end = min(max(found[0], start + 1), upto) if found is not None else upto  # whole revisions
        with self._transaction():
            self._db.execute(_OVERWRITTEN, {"start": start, "end": end, "upto": upto})
            self._db.execute(_TOMBSTONES, {"start": start, "end": end})
        return end

    def grant(self, ttl: float) -> int:
        with self._transaction():
            lease = self._db.execute("INSERT INTO leases (ttl) VALUES (?)", (ttl,)).lastrowid
        if lease is None:
            raise sqlite3.DatabaseError("a lease without an id")
        self._leases[lease] = _Lease(ttl, self._clock() + ttl)
        return lease

    def keep_alive(self, lease: int) -> bool:
        if not self._alive(lease):
            return False
        self._leases[lease].deadline = self._clock() + self._leases[lease].ttl
        return True

    def revoke(self, lease: int) -> int:
        """Returns the revision after it."""
        if lease in self._leases:
            self._leases[lease].deadline = -math.inf  # it stays ended, should its keys have to wait
            while not self._end(lease):
                pass
            del self._leases[lease]
        return self.revision()

    def ended(self) -> Sequence[int]:
        """The leases whose time is up, and that have not been revoked."""
        self._notice_gap()
        return [lease for lease in self._leases if not self._alive(lease)]

    def _end(self, lease: int) -> bool:
        """Delete what fits into one commit. The last one forgets the lease too."""
        with self._transaction():
            keys = [key for (key,) in self._db.execute(_OF_LEASE, (lease, COMMIT_LIMIT + 1))]
            self._append([Delete(key) for key in keys[:COMMIT_LIMIT]])
            if len(keys) <= COMMIT_LIMIT:
                self._db.execute("DELETE FROM leases WHERE id = ?", (lease,))
            return len(keys) <= COMMIT_LIMIT

    def _alive(self, lease: int) -> bool:
        self._notice_gap()
        return lease in self._leases and self._clock() < self._leases[lease].deadline

    def _notice_gap(self) -> None:
        now = time.monotonic()
        if now - self._looked > _GAP_SECONDS:
            log.warning("nothing was done for %.1f s: every lease gets its time again", now - self._looked)
            for lease in self._leases.values():
                if lease.deadline > self._seen:  # the others had ended before
                    lease.deadline = self._clock() + lease.ttl
        self._looked, self._seen = now, self._clock()

    def _compare(self, key: str, revision: int) -> None:
        row = self.get(key)
        found = row.revision if row is not None else 0
        if found != revision:
            raise Conflict(f"{key} is at revision {found}, not at {revision}")

    def _append(self, ops: Sequence[Op]) -> int:
        for op in ops:
            if isinstance(op, Put) and op.lease and not self._alive(op.lease):
                raise Conflict(f"the lease {op.lease} has ended")
        changes = [op for op in ops if isinstance(op, Put) or self.get(op.key) is not None]
        if not changes:
            return self.revision()
        revision = self.revision() + 1
        rows = [(c.key, revision, *((c.value, c.lease) if isinstance(c, Put) else (None, 0))) for c in changes]
        self._db.executemany("INSERT INTO log (key, revision, value, lease) VALUES (?, ?, ?, ?)", rows)
        self._db.execute("UPDATE meta SET revision = ?", (revision,))
        return revision

    def _readable(self, revision: int, newest: int) -> int:
        if not self._meta("compacted") <= revision <= newest:
            raise self._gone(revision, newest)
        return revision

    def _gone(self, revision: int, newest: int) -> RevisionGone:
        compacted = self._meta("compacted")
        return RevisionGone(
            f"revision {revision} cannot be had: there are {compacted} to {newest}",
            metadata={"compacted_revision": str(compacted), "current_revision": str(self.revision())},
        )

    def _meta(self, column: str) -> Any:
        found = self._db.execute(f"SELECT {column} FROM meta").fetchone()  # noqa: S608 -- a name from this file
        if found is None:
            raise sqlite3.DatabaseError("the table meta is empty")
        return found[0]

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _commit(revision: int, rows: Iterable[tuple[int, str, bytes | None, int]]) -> Commit:
    changes = (Delete(key) if value is None else Row(key, value, at, lease) for at, key, value, lease in rows)
    return Commit(revision=revision, changes=tuple(changes))
