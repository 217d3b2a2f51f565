"""The registry's own copy of its store, in memory: what every question is answered from.

It is kept by the mesh's one Reflector, over the store itself. `current` makes it as good as a read of the store: what
has been acknowledged before the call, at whichever replica, is in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from registry_service.mirror.known import Known
from registry_service.mirror.source import StoreSource
from registry_service.store import Store
from stackmesh.bell import Bell
from stackmesh.errors import RegistryUnreachable
from stackmesh.reflector import Reflector, Source
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.shared_read import SharedRead
from stackmesh.tasks import background

LIMIT: Final = 2.8
"""Seconds a linearizable read takes at most. Callers hear within 3 s, the way there and back included."""
_PATIENCE: Final = 1.0
"""Seconds between two tries to reach the store. A store has few replicas, and everybody waits for them."""


class Mirror:
    """A store's copy for as long as `run` runs. It is its reflector's View."""

    def __init__(self, store: Store, source: Source | None = None, *, limit: float = LIMIT) -> None:
        """`source` replaces the store's own, for who listens in; `limit` is how long a read may take."""
        self._store = store
        self._limit = limit
        self._known: Known | None = None
        self._moved = Bell()
        self._reflector = Reflector(source or StoreSource(store), self, patience=_PATIENCE)
        self._head = SharedRead(self._read_head)

    @property
    def known(self) -> Known | None:
        """What is known now, which may be old; None before the store was first read."""
        return self._known

    @property
    def stale(self) -> bool:
        """Whether the store has been silent for so long that what is known may be out of date."""
        return self._reflector.stale

    async def run(self) -> None:
        """Follow the store until cancelled. Never fails: whatever goes wrong is tried again."""
        async with background(self._head.run(), "read the head"):
            await self._reflector.run()

    async def head(self) -> tuple[int, str]:
        """The store's revision and id: who has reached it has seen all that was acknowledged before this call.

        Raises RegistryUnreachable within 3 s.
        """
        try:
            async with asyncio.timeout(self._limit):
                return await self._head.get()
        except TimeoutError:
            raise RegistryUnreachable(f"the registry's store did not answer within {self._limit:g} s") from None

    async def current(self) -> Known:
        """Everything that has been acknowledged before this call. Raises RegistryUnreachable within 3 s."""
        try:
            async with asyncio.timeout(self._limit):
                revision, store_id = await self.head()
                while (known := self._known) is None or known.store_id != store_id:
                    await self._moved.wait()
                await self._reflector.reached(revision)
        except TimeoutError:
            raise RegistryUnreachable(
                f"the registry could not catch up with its store within {self._limit:g} s"
            ) from None
        return self._known or known

    async def changed(self, since: Known | None) -> Known:
        """Wait until something other than `since` is known, and return it."""
        while self._known is None or self._known is since:
            await self._moved.wait()
        return self._known

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        self._step(Known(store_id=self._reflector.store_id).after(entries, revision))

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        self._step((self._known or Known()).after((change.entry for change in changes), revision))

    async def _read_head(self) -> tuple[int, str]:
        try:
            async with asyncio.TaskGroup() as group:
                revision = group.create_task(self._store.revision())
                store_id = group.create_task(self._store.store_id())
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return revision.result(), store_id.result()

    def _step(self, known: Known) -> None:
        self._known = known
        self._moved.ring()

    def __repr__(self) -> str:
        return f"<Mirror {self._known!r} of {self._store!r}>"
