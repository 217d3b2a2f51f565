"""What a name stood for before an update stays until what it stands for now is served: no call finds it missing.

    update     one commit: the row, and beside it what it was, if that is served
    gateways   call what it was, for as long as what it is now is not served
    instances  keep loaded what it was, beside what it is now
    later      what it is now has been served for a while: this removes what it was, and its instances let go of it

Every replica does the last; it compares, so one of them does it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from registry_service import records
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.store import Delete, Op, Put, Store
from stackmesh import resources
from stackmesh.errors import Conflict, MeshError
from stackmesh.reflector import STALE_AFTER
from stackmesh.registry.v1.resources_pb2 import Handover, ServingState
from stackmesh.resources import Resource, kind_of
from stackmesh.serving import judge

log = logging.getLogger(__name__)

LINGER: Final = STALE_AFTER + 1.0
"""Seconds from when what a name stands for now is served. A gateway that hears of it later calls its snapshot stale."""
_LOOK_SECONDS: Final = 1.0
"""Between two looks while there are any."""


def served(known: Known, row: Resource) -> bool:
    """Whether what a row stands for can be called now."""
    api = kind_of(row).api
    provider, hosts = known.provider(api, row.provider_id), known.hosts(api, row.provider_id)
    return judge(row, provider, hosts.values())[0] == ServingState.SERVING_STATE_SERVING


def handed_over(known: Known, before: Resource | None, row: Resource) -> Iterator[Op]:
    """What is to be committed together with a row that was `before`."""
    if before is None or same_target(before, row):
        return
    kind = kind_of(row)
    if served(known, before):
        handover = resources.handover_of(before)
        yield Put(records.key_of(handover), records.encode(handover))
    elif (there := known.handover(kind, row.identifier)) and same_target(resources.earlier(there), row):
        yield Delete(records.key_of(there))  # back to what it was


def same_target(one: Resource, other: Resource) -> bool:
    """Whether both stand for the same."""
    return (one.provider_id, one.provider_resource_id) == (other.provider_id, other.provider_resource_id)


class Handovers:
    """Ends those that have done their work."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        *,
        linger: float = LINGER,
        look: float = _LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._linger = linger
        self._look = look
        self._clock = clock
        self._served_since: dict[str, float] = {}

    async def run(self) -> None:
        """For ever. Never fails: whatever goes wrong is tried again."""
        known: Known | None = None
        while True:
            known = await self._next(known)
            try:
                await self.end(known)
            except MeshError as error:
                log.info("a handover could not be ended, trying again: %s", error)
            except Exception:
                log.exception("a handover could not be ended, trying again")

    async def end(self, known: Known) -> None:
        """Remove those that are over. Raises RegistryUnreachable."""
        over = dict(self._over(known, known.handovers()))
        for key, expect in over.items():
            with suppress(Conflict):  # somebody has updated the name again, or another replica was faster
                revision = await self._store.commit([Delete(key)], expect=expect)
                log.info("%s is over at revision %d", key, revision)

    async def _next(self, known: Known | None) -> Known:
        """What is known after a while, if there are any; else when something has changed."""
        if known is not None and known.handovers():
            await asyncio.sleep(self._look)
        else:
            known = await self._mirror.changed(known)
        return self._mirror.known or known

    def _over(self, known: Known, handovers: Iterable[Handover]) -> Iterator[tuple[str, Mapping[str, int]]]:
        """The keys of those that are over, and what has to be as it is for that to be true."""
        now, since = self._clock(), self._served_since
        self._served_since = {}
        for handover in handovers:
            before, key = resources.earlier(handover), records.key_of(handover)
            row = known.resource(kind_of(before), before.identifier)
            if row is not None and not same_target(before, row):
                if not served(known, row):
                    continue
                began = self._served_since[key] = since.get(key, now)
                if now - began < self._linger:
                    continue
            row_key = records.resource_key(kind_of(before), before.identifier)
            yield key, {key: handover.revision, row_key: 0 if row is None else row.revision}
