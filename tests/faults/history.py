"""Whether what clients of a store saw is linearizable, key by key, in O(n log n).

Every write has a unique revision, so nothing has to be searched: the store's own log gives the order of a key's
versions, and what is left to check is that this order agrees with the clock. Each operation gets a place: the write of
version i before the reads of version i before the write of version i + 1. An operation that returned before another was
invoked must not have a later place; if none has, ordering by place is a linearization.

- A write that was acknowledged must be in the log, with its value, at the revision it was told.
- A write of unknown outcome happened if the log has it, at any time after it was invoked.
- A write under a condition follows the version it expected; a refusal needs another version to have been there.
- A read that found nothing may have seen any deletion: it gets the first place the clock allows.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

UNKNOWN: Final = math.inf
"""When an operation returned that never said how it ended."""


@dataclass(frozen=True, slots=True)
class Version:
    """What the store's log says: a key got a value, or with None lost it, at a revision."""

    key: str
    revision: int
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of one client. Values are unique, so that a version tells whose it is."""

    kind: Literal["read", "write", "refused"]
    key: str
    value: bytes | None
    """Read or written; None is absence. A refusal has none."""
    revision: int
    """Of the version read or written; 0 for a read that found nothing, and for an unknown outcome."""
    invoked: float
    returned: float
    expected: int | None = None
    """The revision a write was conditional on; 0: absence; None: on nothing.

    A deletion of unknown outcome must have been conditional, or nobody could say which one it was.
    """

    def __str__(self) -> str:
        said = "unknown" if self.returned == UNKNOWN else f"{self.returned:.6f}"
        condition = "" if self.expected is None else f" if at {self.expected}"
        return f"{self.kind} {self.value!r} at {self.revision}{condition} [{self.invoked:.6f}, {said}]"


def violations(history: Iterable[Op], log: Iterable[Version]) -> list[str]:
    """Everything that cannot have happened in a linearizable store, in words. Empty: it is linearizable."""
    by_key: dict[str, tuple[list[Op], list[Version]]] = defaultdict(lambda: ([], []))
    for op in history:
        by_key[op.key][0].append(op)
    for version in log:
        by_key[version.key][1].append(version)
    return [
        f"{key}: {problem}"
        for key, (ops, versions) in sorted(by_key.items())
        for problem in _Key(ops, versions).check()
    ]


@dataclass(slots=True)
class _Key:
    """One key: place 2i is the write of version i, 2i + 1 its reads. Version 0 is the absence before all."""

    ops: list[Op]
    versions: list[Version]
    index: dict[int, int] = field(default_factory=dict[int, int])
    """From revision to version. 0: the first."""
    writer: dict[int, Op] = field(default_factory=dict[int, Op])

    def check(self) -> Iterator[str]:
        self.versions.sort(key=lambda version: version.revision)
        self.index = {0: 0, **{version.revision: i for i, version in enumerate(self.versions, 1)}}
        if len(self.index) <= len(self.versions):
            yield "the log has a revision twice"
        yield from self._acknowledged()
        self._claim_unknown()
        yield from (f"nobody wrote {v}" for i, v in enumerate(self.versions, 1) if i not in self.writer)
        yield from self._conditions()
        yield from self._clock()

    def _version(self, index: int) -> Version | None:
        return self.versions[index - 1] if index else None

    def _acknowledged(self) -> Iterator[str]:
        for op in self.ops:
            if op.kind == "write" and op.returned != UNKNOWN:
                index = self.index.get(op.revision, 0)
                if not index or self.versions[index - 1].value != op.value:
                    yield f"lost: {op}"
                elif index in self.writer:
                    yield f"two writes at one revision: {self.writer[index]} and {op}"
                else:
                    self.writer[index] = op

    def _claim_unknown(self) -> None:
        """Who wrote what nobody was told of: a value is unique, and a deletion is known by what it expected."""
        unknown: dict[bytes | int | None, list[Op]] = defaultdict(list)
        for op in sorted(self.ops, key=_invoked, reverse=True):
            if op.kind == "write" and op.returned == UNKNOWN:
                unknown[op.expected if op.value is None else op.value].append(op)
        for index, version in enumerate(self.versions, 1):
            claims = unknown[self._found(index - 1) if version.value is None else version.value]
            if index not in self.writer and claims:
                self.writer[index] = claims.pop()

    def _conditions(self) -> Iterator[str]:
        for index, op in self.writer.items():
            if op.expected is not None and op.expected != self._found(index - 1):
                yield f"written over {self._version(index - 1)}, which it did not expect: {op}"
        reigns: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for index in range(len(self.versions) + 1):
            reigns[self._found(index)].append(self._reign(index))
        for several in reigns.values():
            several.sort()
        for op in self.ops:
            if op.kind == "refused" and _throughout(op, reigns.get(op.expected or 0, ())):
                yield f"refused without cause: {op}"

    def _found(self, index: int) -> int:
        """What somebody has to expect to write over this version."""
        version = self._version(index)
        return 0 if version is None or version.value is None else version.revision

    def _reign(self, index: int) -> tuple[float, float]:
        """From when until when this version was the one there, for sure."""
        began = self.writer[index].returned if index in self.writer else -math.inf
        ended = self.writer[index + 1].invoked if index + 1 in self.writer else math.inf
        return began, ended

    def _clock(self) -> Iterator[str]:
        absent = [2 * index + 1 for index in range(len(self.versions) + 1) if not self._found(index)]
        placed: dict[int, int] = {id(op): 2 * index for index, op in self.writer.items()}
        ended: list[tuple[float, int, int]] = []
        latest, by = -1, None
        ops = sorted((op for op in self.ops if op.kind == "read" or id(op) in placed), key=_invoked)
        for number, op in enumerate(ops):
            while ended and ended[0][0] < op.invoked:
                _, place, which = heapq.heappop(ended)
                if place > latest:
                    latest, by = place, ops[which]
            if op.kind == "read":
                place = self._place(op, absent, latest)
                if place is None:
                    yield f"read what was never written: {op}"
                    continue
            else:
                place = placed[id(op)]
            if place < latest:
                yield f"against the clock: {op} after {by}"
            if op.returned != UNKNOWN:
                heapq.heappush(ended, (op.returned, place, number))

    def _place(self, op: Op, absent: Sequence[int], latest: int) -> int | None:
        if op.value is None:
            return absent[min(bisect_left(absent, latest), len(absent) - 1)]
        index = self.index.get(op.revision, 0)
        return 2 * index + 1 if index and self.versions[index - 1].value == op.value else None


def _throughout(op: Op, reigns: Sequence[tuple[float, float]]) -> bool:
    """Whether one of these, in order, was there from before the operation to after it."""
    at = bisect_left(reigns, (op.invoked, -math.inf)) - 1
    return at >= 0 and op.returned < reigns[at][1]


def _invoked(op: Op) -> float:
    return op.invoked
