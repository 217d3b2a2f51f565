"""What the gateway knows of the registry at one revision, and how the next revision is made from it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.routes import Api, ResourceType

ProviderKey = tuple[Api.ValueType, str]
"""A provider_id is unique within its API."""

Resource = resources_pb2.Model
_NONE: Final[Mapping[str, Resource]] = {}


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """The registry at `revision`. Nothing in it ever changes, but what has been worked out from it is kept."""

    revision: int = 0
    models: Mapping[str, Resource] = field(default_factory=dict[str, Resource])
    providers: Mapping[ProviderKey, resources_pb2.Provider] = field(
        default_factory=dict[ProviderKey, resources_pb2.Provider]
    )
    instances: Mapping[str, resources_pb2.Instance] = field(default_factory=dict[str, resources_pb2.Instance])
    memo: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False)
    """What others decided from this snapshot. It goes with it. Never more keys than the registry has entries."""

    def resources(self, kind: ResourceType.ValueType) -> Mapping[str, Resource]:
        """The resources of a type, by identifier."""
        return self.models if kind == ResourceType.RESOURCE_TYPE_MODEL else _NONE

    def after(self, changes: Sequence[pb.Change], revision: int) -> Snapshot:
        """The snapshot at `revision`. Only the maps that change are copied."""
        edit = _Edit(self)
        for change in changes:
            edit.put(change.entry)
        return edit.done(revision)

    def __repr__(self) -> str:
        counts = f"{len(self.models)} models, {len(self.providers)} providers, {len(self.instances)} instances"
        return f"<Snapshot [revision {self.revision}, {counts}]>"


class _Edit:
    """The next snapshot while it is made: each map is copied when it is first written to."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._copies: dict[str, dict[Any, Any]] = {}

    def put(self, entry: pb.Entry) -> None:
        place = _place(entry.key)
        if place is None:
            return
        kind, key = place
        entries = self._copies.get(kind)
        if entries is None:
            entries = self._copies[kind] = dict(getattr(self._base, kind))
        value = entry.WhichOneof("value")
        if value is None:
            entries.pop(key, None)
        else:
            entries[key] = getattr(entry, value)

    def done(self, revision: int) -> Snapshot:
        return replace(self._base, revision=revision, memo={}, **self._copies)


def _place(key: str) -> tuple[str, Any] | None:
    """The map a store key belongs to and the key there; None for what this version does not know."""
    kind, _, name = key.partition("/")
    if kind == "provider":
        api, _, provider_id = name.partition("/")
        known = f"API_{api.upper()}"
        return ("providers", (Api.Value(known), provider_id)) if known in Api.keys() else None  # noqa: SIM118 -- an enum, no map
    return {"model": ("models", name), "instance": ("instances", name)}.get(kind)


class SnapshotView:
    """The latest snapshot; None until the registry was first listed. It is the reflector's view."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._moved = asyncio.Event()

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        self._step(Snapshot().after([pb.Change(entry=entry) for entry in entries], revision))

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        self._step((self.snapshot or Snapshot()).after(changes, revision))

    def _step(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def changed(self, since: Snapshot | None) -> Snapshot:
        """Wait for a snapshot other than `since`, and return the latest."""
        while self.snapshot is None or self.snapshot is since:
            await self._moved.wait()
        return self.snapshot

    def __repr__(self) -> str:
        return f"<SnapshotView {self.snapshot!r}>"
