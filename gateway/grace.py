"""Instances that vanish just after the registry was away are kept for a while.

While it is away nobody can beat, so it may come back to leases that have ended, of instances that are well and about to
announce themselves again. Without the grace their models would be refused for those seconds. One that has really gone
costs little meanwhile: a call that cannot reach it goes to another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from gateway.snapshot import SnapshotView, built, entry_of
from stackmesh.registry.v1 import watch_service_pb2 as pb

GRACE: Final = 10.0
"""Seconds after the registry's return. Instances beat every 5 s, and announce themselves within 2 s of a refusal."""


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
        self._kept: set[str] = set()  # keys
        self._keeping = asyncio.Event()

    async def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        """As a View. Kept are those that a list of the same store has no more."""
        after = await built(entries, revision, self._source().store_id)
        before = self._view.snapshot
        self._kept.clear()
        if self._open and before is not None and before.store_id == after.store_id:
            gone = [entry_of(i) for name, i in before.instances.items() if name not in after.instances]
            after = after.after([pb.Change(entry=entry) for entry in gone], revision)
            self._keep(entry.key for entry in gone)
        self._view.step(after)

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        """As a View."""
        self._kept.difference_update([change.entry.key for change in changes])
        if self._open:
            deleted = {change.entry.key for change in changes if _deletes_instance(change.entry)}
            back = {change.entry.key for change in changes if change.entry.HasField("instance")}
            self._keep(deleted - back)
            changes = [change for change in changes if not _deletes_instance(change.entry)]
        self._view.apply(changes, revision)

    async def run(self) -> None:
        """Let go of those that have not come back in time, for ever."""
        while True:
            await self._keeping.wait()
            await asyncio.sleep(max(0.0, self._seconds - self._source().back_for))
            if self._open:
                continue  # it was away and back again meanwhile
            if self._kept and self._view.snapshot is not None:
                gone = [pb.Change(entry=pb.Entry(key=key)) for key in self._kept]
                self._view.apply(gone, self._view.snapshot.revision)
            self._kept.clear()
            self._keeping.clear()

    @property
    def _open(self) -> bool:
        return self._source().back_for < self._seconds

    def _keep(self, keys: Iterable[str]) -> None:
        self._kept.update(keys)
        if self._kept:
            self._keeping.set()


def _deletes_instance(entry: pb.Entry) -> bool:
    return entry.key.startswith("instance/") and entry.WhichOneof("value") is None
