"""What providers with `auto_register` serve is registered under their own names: the rows with source=DISCOVERED.

Every replica does this whenever what is served has changed. It compares, and writes only what is new. A row is with the
first provider of the YAML that serves its name now; it is written over when that is another one, and so never absent.
While nobody serves it, it stays where it is and comes back as it was. Rows of users and of the YAML are never touched.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from registry_service import records
from registry_service.declared.declarations import declarations
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.registering.registrations import now
from registry_service.store import COMMIT_LIMIT, Delete, Op, Put, Store
from stackmesh.backoff import Backoff
from stackmesh.config import Config
from stackmesh.errors import MeshError
from stackmesh.names import RESERVED
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS, Kind, Resource
from stackmesh.routes import ResourceType
from stackmesh.serving import hosted

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 30.0
"""After so long it looks again, though nothing has changed: a name may have become free."""

_NAMES_ALONE: Final = tuple(
    kind for kind in KINDS.values() if kind.resource_type != ResourceType.RESOURCE_TYPE_MEMORY_BANK
)
"""The types of which a name is enough. What kind of bank a memory bank is, its name does not tell."""


class Discovered:
    """Keeps the rows in step with what is served."""

    def __init__(self, config: Config, store: Store, mirror: Mirror) -> None:
        self._declared = {KINDS[which].resource_type: set(rows) for which, rows in declarations(config).items()}
        self._store = store
        self._mirror = mirror
        self._told: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Follow for ever. Never fails: whatever goes wrong is tried again."""
        backoff = Backoff(limit=5.0)
        while True:
            try:
                known = await self._mirror.current()
                await self.follow(known)
            except MeshError as error:
                log.info("what is served could not be registered, trying again: %s", error)
                await asyncio.sleep(backoff.delay())
            except Exception:
                log.exception("what is served could not be registered, trying again")
                await asyncio.sleep(backoff.delay())
            else:
                backoff.reset()
                await self._changed(known)

    async def follow(self, known: Known) -> None:
        """Make the rows follow what is known. Raises Conflict when somebody else was faster, RegistryUnreachable."""
        for kind in _NAMES_ALONE:
            ops = list(self._ops(kind, known))
            for start in range(0, len(ops), COMMIT_LIMIT):
                await self._commit(known, ops[start : start + COMMIT_LIMIT])
            if ops:
                log.info("%s: %d rows follow what is served", kind.plural, len(ops))

    async def _commit(self, known: Known, ops: Sequence[Op]) -> None:
        before = {op.key: known.get(op.key) for op in ops}
        await self._store.commit(ops, expect={key: row.revision if row else 0 for key, row in before.items()})

    def _ops(self, kind: Kind, known: Known) -> Iterator[Op]:
        automatic = [provider for provider in known.providers(kind.api) if provider.auto_register]
        wanted = {provider.provider_id for provider in automatic}
        first = self._first(kind, automatic, known)
        rows, declared = known.resources(kind), self._declared.get(kind.resource_type, set())
        for name, provider_id in first.items():
            row = rows.get(name)
            if name in declared or (row is not None and not _follows(row, provider_id)):
                continue
            made = _row(kind, name, provider_id, row)
            yield Put(records.key_of(made), records.encode(made))
        kept = declared.union(first)
        for name, row in rows.items():
            if row.source == pb.SOURCE_DISCOVERED and row.provider_id not in wanted and name not in kept:
                yield Delete(records.key_of(row))

    def _first(self, kind: Kind, automatic: Sequence[pb.Provider], known: Known) -> Mapping[str, str]:
        """Each name that is served now, and the first provider of the YAML that serves it."""
        first: dict[str, str] = {}
        for provider in automatic:
            for name in _served(provider, known.hosts(provider.api, provider.provider_id).values()):
                if first.setdefault(name, provider.provider_id) != provider.provider_id:
                    self._tell(kind, name, first[name], provider.provider_id)
        return first

    def _tell(self, kind: Kind, name: str, first: str, other: str) -> None:
        if (other, name) not in self._told:
            self._told.add((other, name))
            log.info("the %s %s is registered with %s, though %s serves it too", kind.words, name, first, other)

    async def _changed(self, since: Known) -> None:
        """Wait until what is served may have changed, or for AGAIN_SECONDS."""
        known = since
        with suppress(TimeoutError):
            async with asyncio.timeout(AGAIN_SECONDS):
                while known.same_serving(since):
                    known = await self._mirror.changed(known)


def _served(provider: pb.Provider, hosts: Collection[pb.Instance]) -> Iterator[str]:
    """What at least one instance serves, as far as it can be a name."""
    lacking: set[str] | None = None
    for host in hosts:
        entry = hosted(provider, host)
        if entry is None or entry.serves_nothing:
            continue
        lacking = set(entry.not_served) if lacking is None else lacking.intersection(entry.not_served)
        if not lacking:
            break
    if lacking is not None:  # somebody serves something
        yield from (name for name in provider.served if name not in lacking and not name.startswith(RESERVED))


def _follows(row: Resource, provider_id: str) -> bool:
    """Whether a row has to go to the provider that is the first to serve its name now."""
    return row.source == pb.SOURCE_DISCOVERED and row.provider_id != provider_id


def _row(kind: Kind, name: str, provider_id: str, before: Resource | None) -> Resource:
    row = copy.deepcopy(before) if before is not None else kind.message(identifier=name, created_at=now())
    row.provider_id, row.provider_resource_id, row.source = provider_id, name, pb.SOURCE_DISCOVERED
    row.updated_at.CopyFrom(now() if before is not None else row.created_at)
    return row
