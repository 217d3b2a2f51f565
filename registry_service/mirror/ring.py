"""The last commits, encoded for the watchers, as many as there is room for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from registry_service.filters import Wanted
from registry_service.mirror.telling import Told, response

MOST_CHANGES: Final = 10_000
MOST_BYTES: Final = 16 * 1024 * 1024
BATCH_BYTES: Final = 1024 * 1024
"""Of the changes in one answer, unless a single revision is larger. gRPC's clients take 4 MiB by default."""

_revision = attrgetter("revision")


@dataclass(frozen=True, slots=True)
class Whole:
    """One whole revision."""

    revision: int
    changes: Sequence[Told]
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(len(told.encoded) + len(told.deletion) for told in self.changes))


class Ring:
    """Every commit after the revision `base`."""

    def __init__(self, base: int, *, most_changes: int = MOST_CHANGES, most_bytes: int = MOST_BYTES) -> None:
        self.base = base
        """What is up to here is no longer, or never was, in the ring."""
        self._most_changes = most_changes
        self._most_bytes = most_bytes
        self._commits: list[Whole] = []
        self._changes = 0
        self._bytes = 0

    def emptied(self, base: int) -> Ring:
        """A new one of the same size."""
        return Ring(base, most_changes=self._most_changes, most_bytes=self._most_bytes)

    def append(self, commit: Whole) -> None:
        """The next commit; the oldest ones go when it gets too much."""
        self._commits.append(commit)
        self._changes += len(commit.changes)
        self._bytes += commit.size
        while len(self._commits) > 1 and (self._changes > self._most_changes or self._bytes > self._most_bytes):
            self._drop(len(self._commits) // 4 or 1)

    def take(self, position: int, wanted: Wanted) -> tuple[bytes, int]:
        """What a watcher is told of some whole revisions from `position` on, as one answer, and where it goes on.

        Without an answer (b"") none of the commits from `position` on is of interest to it.
        """
        told: list[bytes] = []
        room, revision = BATCH_BYTES, position - 1
        for index in range(bisect_left(self._commits, position, key=_revision), len(self._commits)):
            commit = self._commits[index]
            found = [message for change in commit.changes if (message := change.to(wanted))]
            room -= sum(map(len, found))
            if told and room < 0:
                break
            told += found
            revision = commit.revision
        return response(revision, told) if told else b"", revision + 1

    def _drop(self, count: int) -> None:
        for commit in self._commits[:count]:
            self._changes -= len(commit.changes)
            self._bytes -= commit.size
            self.base = commit.revision
        del self._commits[:count]

    def __repr__(self) -> str:
        return f"<Ring [{len(self._commits)} commits after {self.base}, {self._bytes} bytes]>"
