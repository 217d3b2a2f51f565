"""What is registered with the providers of this process: the view that a service keeps of the registry.

It goes by what is there, not by what happened: a relist, a restart or an event that came twice lead to the same wishes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from google.protobuf.struct_pb2 import Struct

from stackmesh.providers import Wanted
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.resources import KINDS, Resource, kind_of
from stackmesh.routes import Api

Name = tuple[str, str]
"""(provider_id, provider_resource_id)"""


class Wishes:
    """A View. Several identifiers may stand for one name of a provider's; it is wanted while one of them does."""

    def __init__(self, api: Api.ValueType, provider_ids: Collection[str]) -> None:
        self._words: Final = tuple(kind.word for kind in KINDS.values() if kind.api == api)
        self._providers = frozenset(provider_ids)
        self._rows: dict[str, Resource] = {}
        self._keys: dict[Name, set[str]] = {}
        self._changed: set[Name] = set()
        self._moved = asyncio.Event()

    @staticmethod
    def filter(api: Api.ValueType, provider_ids: Collection[str]) -> pb.EntryFilter:
        """What the registry need send. Whatever else comes is left out here: a filter saves work, it is no promise."""
        kinds = [kind.entry_kind for kind in KINDS.values() if kind.api == api]
        kinds.append(pb.ENTRY_KIND_HANDOVER)
        return pb.EntryFilter(kinds=kinds, provider_ids=sorted(provider_ids))

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:  # noqa: ARG002 -- as a View's
        gone = self._rows.keys() - {entry.key for entry in entries}
        for key in list(gone):
            self._put(key, None)
        for entry in entries:
            self._put(entry.key, self._wish(entry))

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:  # noqa: ARG002 -- as a View's
        for change in changes:
            self._put(change.entry.key, self._wish(change.entry))

    async def changed(self) -> Mapping[Name, Wanted | None]:
        """Wait until something has changed since the last call: what is wanted under those names now."""
        await self._moved.wait()
        self._moved.clear()
        names, self._changed = self._changed, set()
        return {name: self._wanted(name) for name in names}

    def _wish(self, entry: pb.Entry) -> Resource | None:
        """The row, if somebody wants it and a provider of this process has accepted it.

        What was only discovered is no wish: or what is deleted at a backend would be loaded there again.
        """
        word, holder = entry.WhichOneof("value"), entry
        if word == "handover":  # what a name stood for is wanted until what it stands for now is served
            word, holder = entry.handover.WhichOneof("earlier"), entry.handover
        if word not in self._words:
            return None
        row: Resource = getattr(holder, word)
        if row.provider_id not in self._providers or not row.provider_resource_id:
            return None
        return row if row.source != resources_pb2.SOURCE_DISCOVERED else None

    def _put(self, key: str, row: Resource | None) -> None:
        before = self._rows.pop(key, None)
        if before == row:
            if row is not None:
                self._rows[key] = row
            return
        if before is not None:
            self._keys[self._touch(before)].discard(key)
        if row is not None:
            self._rows[key] = row
            self._keys.setdefault(self._touch(row), set()).add(key)

    def _touch(self, row: Resource) -> Name:
        name = (row.provider_id, row.provider_resource_id)
        self._changed.add(name)
        self._moved.set()
        return name

    def _wanted(self, name: Name) -> Wanted | None:
        """As the oldest registration wants it, so that all instances of a provider agree."""
        keys = self._keys.get(name)
        if not keys:
            self._keys.pop(name, None)
            return None
        rows = [self._rows[key] for key in keys]
        return wanted(min(rows, key=lambda row: (row.created_at.ToNanoseconds(), row.identifier)))

    def __repr__(self) -> str:
        return f"<Wishes [{len(self._rows)} rows, {len(self._keys)} names]>"


def wanted(row: Resource) -> Wanted:
    """A registered resource, as its provider is asked for it."""
    kind = kind_of(row)
    made = Wanted(
        provider_id=row.provider_id, resource_type=kind.resource_type, provider_resource_id=row.provider_resource_id
    )
    payload: Struct | resources_pb2.MemoryBankParams = getattr(row, kind.payload)
    if isinstance(payload, Struct):
        made.metadata.CopyFrom(payload)
    else:
        made.memory_bank_params.CopyFrom(payload)
    return made
