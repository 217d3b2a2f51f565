"""Instances that vanish just after the registry was away are kept for a while.

While it is away nobody can beat, so it may come back to leases that have ended, of instances that are well and about to
announce themselves again. Without the grace their models would be refused for those seconds. One that has really gone
costs little meanwhile: a call that cannot reach it goes to another.

Each is kept once, for one grace: a registry that comes and goes does not keep the dead.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.snapshot import SnapshotView, built
from stackmesh.registry.v1 import watch_service_pb2 as pb

GRACE: Final = 10.0
"""Seconds after the registry's return. Instances beat every 5 s, and announce themselves within 2 s of a refusal."""

_INSTANCE: Final = "instance/"


class Source(Protocol):
    """What a reflector says of where its entries come from."""

    @property
    def store_id(self) -> str: ...

    @property
    def back_for(self) -> float:
        """Seconds since the registry came back from a long silence."""
        ...


class Grace:
    """The reflector's view before the snapshot's. `source` is that reflector."""

    def __init__(self, view: SnapshotView, source: Callable[[], Source], seconds: float = GRACE) -> None:
        self._view = view
        self._source = source
        self._seconds = seconds
        self._kept: dict[str, float] = {}  # instance ids, to when each is let go
        self._followed_a_file = -math.inf
        self._keeping = asyncio.Event()

    async def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        """As a View. Kept are those that a list of the same store has no more."""
        after = await built(entries, revision, self._source().store_id)
        before = self._view.snapshot
        gone = {}
        if before is not None and before.store_id == after.store_id:
            if before.saved_at is not None:  # this process has not seen the registry go, but for all it knows it had
                self._followed_a_file = time.monotonic()
            if self._open:
                gone = {name: there for name, there in before.instances.items() if name not in after.instances}
        self._kept = {name: until for name, until in self._kept.items() if name in gone}
        self._keep(gone)
        self._view.step(after.keeping(gone) if gone else after)

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        """As a View. Kept are those of the snapshot whose last change is their end, as they were before it."""
        ended = _ended(changes)
        self._kept = {name: until for name, until in self._kept.items() if ended.get(name, True)}
        if self._open and self._view.snapshot is not None:
            here = self._view.snapshot.instances
            gone = {f"{_INSTANCE}{name}": name for name, is_over in ended.items() if is_over and name in here}
            self._keep(gone.values())
            changes = [change for change in changes if change.entry.key not in gone or not _is_end(change.entry)]
        self._view.apply(changes, revision)

    async def run(self) -> None:
        """Let go of those that have not come back in time, for ever."""
        while True:
            await self._keeping.wait()
            await asyncio.sleep(min(self._kept.values(), default=0.0) - time.monotonic())
            now = time.monotonic()
            over = [name for name, until in self._kept.items() if until <= now]
            if over and self._view.snapshot is not None:
                self._kept = {name: until for name, until in self._kept.items() if until > now}
                gone = [pb.Change(entry=pb.Entry(key=f"{_INSTANCE}{name}")) for name in over]
                self._view.apply(gone, self._view.snapshot.revision)
            if not self._kept:
                self._keeping.clear()

    @property
    def _ends(self) -> float:
        """When the grace ends, or has ended."""
        return max(time.monotonic() - self._source().back_for, self._followed_a_file) + self._seconds

    @property
    def _open(self) -> bool:
        return time.monotonic() < self._ends

    def _keep(self, names: Iterable[str]) -> None:
        until = self._ends
        for name in names:
            self._kept.setdefault(name, until)
        if self._kept:
            self._keeping.set()


def _ended(changes: Sequence[pb.Change]) -> dict[str, bool]:
    """The instances that are spoken of, by their ids: whether the last word of each is its end."""
    said = (change.entry for change in changes if change.entry.key.startswith(_INSTANCE))
    return {entry.key.removeprefix(_INSTANCE): _is_end(entry) for entry in said}


def _is_end(entry: pb.Entry) -> bool:
    return entry.WhichOneof("value") is None
