"""Registering resources of every type: the provider is asked, then the row is written by compare-and-swap."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from registry_service import records
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.registering import embedding, requests
from registry_service.registering.handovers import handed_over, same_target
from registry_service.registering.resolve import Resolver
from registry_service.store import Delete, Op, Put, Store
from stackmesh import payloads
from stackmesh.errors import Conflict, Declared, NotHosted, NotServing, ResourceExists, ResourceNotFound
from stackmesh.nearest import Names
from stackmesh.registry.v1.resources_pb2 import SOURCE_CONFIG, SOURCE_DISCOVERED, SOURCE_USER, Source
from stackmesh.resources import Kind, Resource, kind_of

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 10
"""How often a row is read again because somebody else was faster."""

T = TypeVar("T")


class _Moved(Exception):
    """Somebody else was faster."""


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class Registrations:
    """What users register. What they ask for comes from `requests`; a row that is returned is the caller's own."""

    def __init__(self, store: Store, mirror: Mirror, resolver: Resolver) -> None:
        self._store = store
        self._mirror = mirror
        self._resolver = resolver
        self._names: dict[Kind, tuple[Mapping[str, Resource], Names]] = {}  # in order, and of which rows

    async def get(self, kind: Kind, identifier: str) -> Resource:
        """Raises ResourceNotFound, naming the nearest ones."""
        return copy.deepcopy(self._found(await self._mirror.current(), kind, identifier))

    async def register(self, asked: Resource) -> Resource:
        """The row, new or as it was. Raises ResourceExists, NotServing while the YAML's own is pending, InvalidField
        for an embedding model nobody registered, and what Resolver.resolve raises.
        """

        async def attempt(known: Known) -> Resource:
            before = known.resource(kind_of(asked), asked.identifier)
            if before is not None and before.source != SOURCE_DISCOVERED:
                await self._check_same(known, before, asked)
                return copy.deepcopy(before)
            relies_on = embedding.needed(known, asked)
            row = await self._resolved(known, copy.deepcopy(asked))
            return await self._write(known, before, row, relies_on)

        return await self._insist(asked.identifier, attempt)

    async def update(self, asked: Resource, expected: int) -> Resource:
        """The changed row. Raises ResourceNotFound, Conflict unless it was at the revision `expected`, Declared for
        one of the YAML's, and what `register` raises.
        """
        kind = kind_of(asked)

        async def attempt(known: Known) -> Resource:
            before = self._found(known, kind, asked.identifier)
            _check_own(kind, before, "change it there")
            _check_revision(before, expected)
            row = _changed(kind, before, asked)
            relies_on = embedding.needed(known, asked)
            if _is_the_providers_business(kind, row, before):
                row = await self._resolved(known, row)
            if same_target(row, before):
                row.provider_alias = before.provider_alias
            if before.source == SOURCE_USER and records.encode(row) == records.encode(before):
                return row
            return await self._write(known, before, row, relies_on)

        return await self._insist(asked.identifier, attempt)

    async def unregister(self, kind: Kind, identifier: str, expected: int = 0) -> int:
        """The revision from which it is gone. Raises ResourceNotFound, Declared for one of the YAML's, and Conflict
        unless it was at the revision `expected` (0: at any).
        """

        async def attempt(known: Known) -> int:
            row = self._found(known, kind, identifier)
            _check_own(kind, row, "remove it from the YAML")
            if expected:
                _check_revision(row, expected)
            key, handover = records.key_of(row), known.handover(kind, identifier)
            gone = [Delete(key), *([] if handover is None else [Delete(records.key_of(handover))])]
            return await self._commit(gone, {key: row.revision})

        return await self._insist(identifier, attempt)

    def _found(self, known: Known, kind: Kind, identifier: str) -> Resource:
        rows = known.resources(kind)
        if (row := rows.get(identifier)) is not None:
            return row
        if kind not in self._names or self._names[kind][0] is not rows:
            self._names[kind] = rows, Names(rows)
        hint = self._names[kind][1].hint(identifier)
        raise ResourceNotFound(f"no {kind.words} is called {identifier}; {hint}", metadata={"resource_type": kind.word})

    async def _insist(self, identifier: str, attempt: Callable[[Known], Awaitable[T]]) -> T:
        """Try on what is known now, again whenever somebody else was faster."""
        for _ in range(_ATTEMPTS):
            known = await self._mirror.current()
            try:
                return await attempt(known)
            except _Moved:
                log.info("%s was changed by somebody else meanwhile", identifier)
        raise Conflict(f"{identifier} keeps changing; try again")

    async def _resolved(self, known: Known, row: Resource) -> Resource:
        """The row, under the name its provider gives it."""
        resolved = await self._resolver.resolve(requests.question(row), known)
        requests.named(row, resolved.provider_id, resolved.provider_resource_id)
        return row

    async def _write(
        self, known: Known, before: Resource | None, row: Resource, relies_on: Mapping[str, int]
    ) -> Resource:
        """Make it the user's, in one commit."""
        row.source = SOURCE_USER
        row.updated_at.CopyFrom(now())
        row.created_at.CopyFrom(row.updated_at if before is None else before.created_at)
        key = records.key_of(row)
        expect = {**relies_on, key: 0 if before is None else before.revision}
        row.revision = await self._commit([Put(key, records.encode(row)), *handed_over(known, before, row)], expect)
        return row

    async def _commit(self, ops: Sequence[Op], expect: Mapping[str, int]) -> int:
        try:
            return await self._store.commit(ops, expect=expect)
        except Conflict as error:
            raise _Moved from error

    async def _check_same(self, known: Known, row: Resource, asked: Resource) -> None:
        """Raises ResourceExists unless everything that is asked for is so already."""
        if row.pending_reason:
            raise NotServing(f"{row.identifier} is declared in the YAML and pending: {row.pending_reason}")
        kind = kind_of(row)
        differs = (
            asked.provider_id not in ("", row.provider_id)
            or (payloads.given(kind, asked) and payloads.differ(kind, asked, row))
            or not await self._same_name(known, row, asked)
        )
        if differs:
            remedy = "change it in the YAML" if row.source == SOURCE_CONFIG else "update it, or unregister it first"
            raise ResourceExists(
                f"{row.identifier} is already registered, with the provider {row.provider_id} as "
                f"{row.provider_resource_id}, or with other {kind.payload}; {remedy}",
                metadata={
                    "resource_type": kind.word,
                    "source": Source.Name(row.source).removeprefix("SOURCE_").lower(),
                },
            )

    async def _same_name(self, known: Known, row: Resource, asked: Resource) -> bool:
        if asked.provider_resource_id in ("", row.provider_resource_id, requests.asked_name(row)):
            return True
        question = requests.question(asked)
        question.provider_id = row.provider_id
        try:
            resolved = await self._resolver.resolve(question, known)
        except NotHosted:
            return False
        return resolved.provider_resource_id == row.provider_resource_id


def _check_own(kind: Kind, row: Resource, remedy: str) -> None:
    """The YAML's rows follow the YAML, and nobody else."""
    if row.source == SOURCE_CONFIG:
        raise Declared(f"the {kind.words} {row.identifier} is declared in the YAML: {remedy}")


def _check_revision(row: Resource, expected: int) -> None:
    if row.revision != expected:
        raise Conflict(f"{row.identifier} is at revision {row.revision}, not at {expected}: read it again, then retry")


def _changed(kind: Kind, before: Resource, asked: Resource) -> Resource:
    """The row as it shall be, before its provider is asked."""
    row = copy.deepcopy(before)
    if payloads.given(kind, asked):
        getattr(row, kind.payload).CopyFrom(getattr(asked, kind.payload))
    if asked.provider_id not in ("", before.provider_id):
        row.provider_id, row.provider_resource_id, row.provider_alias = (
            asked.provider_id,
            asked.provider_resource_id,
            "",
        )
    elif asked.provider_resource_id not in ("", row.provider_alias):
        row.provider_resource_id, row.provider_alias = asked.provider_resource_id, ""
    return row


def _is_the_providers_business(kind: Kind, row: Resource, before: Resource) -> bool:
    """Metadata is the users' own; parameters are the provider's."""
    names_differ = (row.provider_id, row.provider_resource_id) != (before.provider_id, before.provider_resource_id)
    return names_differ or (kind.payload == "params" and payloads.differ(kind, row, before))
