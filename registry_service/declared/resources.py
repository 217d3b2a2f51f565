"""The rows of one type of resource, as the YAML has them."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Mapping
from typing import Final

from registry_service import records
from registry_service.declared.batches import Batches
from registry_service.mirror.known import Known
from registry_service.registering import embedding, requests
from registry_service.registering.registrations import now
from registry_service.registering.resolve import Resolver
from registry_service.store import Delete, Op, Put, Store
from stackmesh import payloads
from stackmesh.errors import MeshError, NotHosted
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import Kind, Resource

log = logging.getLogger(__name__)

_REASON_LIMIT: Final = 500
_AT_ONCE: Final = 16
"""Resources of a type that are resolved at the same time."""
_BETWEEN: Final = 100
"""So many are looked at before others have their turn."""


class DeclaredResources:
    """Keeps the rows of one type in step with what is declared of it."""

    def __init__(self, kind: Kind, declared: Mapping[str, Resource], store: Store, resolver: Resolver) -> None:
        self._kind = kind
        self._declared = declared
        self._batches = Batches(store)
        self._resolver = resolver
        self._confirmed: dict[str, Resource] = {}  # rows whose alias the provider has resolved to what they say
        self._since = Known()  # what was known when it last followed
        self._written: dict[str, int] = {}  # the revisions of rows it wrote since, by their names
        self._warned: set[str] = set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def follow(self, known: Known) -> bool:
        """Make the rows follow once. Returns whether something has to be tried again. Raises RegistryUnreachable."""
        self._since, self._written = known, {}
        there = known.resources(self._kind)
        gone = [
            row for row in there.values() if row.source == pb.SOURCE_CONFIG and row.identifier not in self._declared
        ]
        unsettled: list[Resource] = []
        for count, (name, asked) in enumerate(self._declared.items(), start=1):
            if not self._is_settled(known, there.get(name), asked):
                unsettled.append(asked)
            if count % _BETWEEN == 0:
                await asyncio.sleep(0)
        tasks: list[asyncio.Task[bool]] = []
        async with asyncio.TaskGroup() as group:
            for work in (
                *(self._drop(row) for row in gone),
                *(self._follow(known, there.get(asked.identifier), asked) for asked in unsettled),
            ):
                tasks.append(group.create_task(work))
                if len(tasks) % _BETWEEN == 0:
                    await asyncio.sleep(0)
        return any(task.result() for task in tasks)

    def disturbed(self, now: Known) -> bool:
        """Whether somebody else has changed a row that follows the YAML, or should, since it last followed."""
        before, there = self._since.resources(self._kind), now.resources(self._kind)
        if before is there:
            return False
        if any(name not in there and (name in before or name in self._written) for name in self._declared):
            return True
        return any(
            row is not before.get(name)
            and (name in self._declared or row.source == pb.SOURCE_CONFIG)
            and row.revision != self._written.get(name)
            for name, row in there.items()
        )

    def _is_settled(self, known: Known, row: Resource | None, asked: Resource) -> bool:
        """Whether there is nothing to be done, as far as that can be seen without asking anybody."""
        if row is not None and row.source == pb.SOURCE_USER:
            if row.identifier not in self._warned:
                log.warning("%s is declared in the YAML, but a user has registered it: left as it is", row.identifier)
                self._warned.add(row.identifier)
            return True
        return row is not None and self._agrees(known, row, asked) and self._is_confirmed(row, asked)

    def _agrees(self, known: Known, row: Resource, asked: Resource) -> bool:
        """As far as can be seen without asking whether an alias stands for what it stood for."""
        return self._stands(known, row, asked) and not payloads.differ(self._kind, row, asked)

    def _stands(self, known: Known, row: Resource, asked: Resource) -> bool:
        """Whether a provider has said once that it hosts just what is declared, be it with another payload."""
        return (
            row.source == pb.SOURCE_CONFIG
            and not row.pending_reason
            and asked.provider_id in ("", row.provider_id)
            and requests.asked_name(asked) in (row.provider_resource_id, row.provider_alias)
            and known.provider(self._kind.api, row.provider_id) is not None
        )

    def _is_confirmed(self, row: Resource, asked: Resource) -> bool:
        own = requests.asked_name(asked) == row.provider_resource_id
        return own or self._confirmed.get(row.identifier) == row

    async def _follow(self, known: Known, row: Resource | None, asked: Resource) -> bool:
        async with self._at_once:
            if row is not None and self._agrees(known, row, asked) and await self._still_resolves(known, row, asked):
                return False
            wanted, relies_on, again = await self._wanted(known, row, asked)
        if row is None or records.encode(wanted) != records.encode(row):
            what = wanted.pending_reason or f"{wanted.provider_id} as {wanted.provider_resource_id}"
            log.info("%s %s: %s", self._kind.words, wanted.identifier, what)
            wanted.updated_at.CopyFrom(now())
            written = await self._write(Put(records.key_of(wanted), records.encode(wanted)), row, relies_on)
            self._written[wanted.identifier] = written
            return again or not written
        return again

    async def _still_resolves(self, known: Known, row: Resource, asked: Resource) -> bool:
        """Whether the alias that is declared still stands for what the row says."""
        question = requests.question(asked)
        question.provider_id = row.provider_id
        try:
            resolved = await self._resolver.resolve(question, known)
        except NotHosted:
            return False
        except MeshError as error:
            log.info("%s stays as it was: %s", row.identifier, error)  # who cannot be asked has not changed his mind
            return True
        if resolved.provider_resource_id == row.provider_resource_id:
            self._confirmed[row.identifier] = row
            return True
        return False

    async def _wanted(
        self, known: Known, row: Resource | None, asked: Resource
    ) -> tuple[Resource, Mapping[str, int], bool]:
        """The row as it should be, resolved or pending with the reason; the keys on which it relies; whether to ask
        again.
        """
        wanted = copy.deepcopy(asked)
        wanted.source = pb.SOURCE_CONFIG
        wanted.created_at.CopyFrom(now() if row is None else row.created_at)
        wanted.updated_at.CopyFrom(wanted.created_at if row is None else row.updated_at)
        try:
            relies_on = embedding.needed(known, asked)
            resolved = await self._resolver.resolve(requests.question(asked), known)
        except MeshError as error:
            kept = self._kept(row, asked, error) if row is not None and self._stands(known, row, asked) else None
            if kept is not None:
                log.info("%s stays as it was: %s", asked.identifier, error)
                return kept, {}, True
            wanted.provider_resource_id = ""
            wanted.pending_reason = error.message[:_REASON_LIMIT]
            return wanted, {}, True
        requests.named(wanted, resolved.provider_id, resolved.provider_resource_id)
        return wanted, relies_on, False

    def _kept(self, row: Resource, asked: Resource, error: MeshError) -> Resource | None:
        """The row of what a provider has hosted and cannot confirm now: it may be NOT_SERVING, but it stays registered.

        Metadata is nobody's business but the users'. New parameters count when the provider has accepted them; None:
        it has refused them.
        """
        kept = copy.deepcopy(row)
        if self._kind.payload == "metadata":
            getattr(kept, self._kind.payload).CopyFrom(getattr(asked, self._kind.payload))
        elif isinstance(error, NotHosted) and payloads.differ(self._kind, row, asked):
            return None
        return kept

    async def _drop(self, row: Resource) -> bool:
        log.info("%s %s is no longer declared", self._kind.words, row.identifier)
        return not await self._write(Delete(records.key_of(row)), row, {})

    async def _write(self, op: Op, row: Resource | None, relies_on: Mapping[str, int]) -> int:
        """The revision of the write; 0: somebody else was faster."""
        revision = await self._batches.write(op, {**relies_on, op.key: 0 if row is None else row.revision})
        if not revision:
            log.info("%s was written by somebody else meanwhile", op.key)
        return revision
