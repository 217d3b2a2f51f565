"""What the registry knows at one revision, decoded and indexed; and how the next revision is made from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from registry_service import records
from registry_service.records import Record
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.resources import Kind, Resource
from stackmesh.routes import Api

ProviderKey = tuple[Api.ValueType, str]
"""A provider_id is unique within its API."""

_NONE: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True, repr=False)
class Known:
    """The records at `revision`. Nothing here ever changes: who wants to change a record takes a copy."""

    revision: int = 0
    """Of the last change. The store may be further, if what followed was none of ours."""
    store_id: str = ""
    by_prefix: Mapping[str, Mapping[str, Record]] = field(default_factory=dict[str, Mapping[str, Record]])
    """By prefix, then by key without it."""
    by_provider: Mapping[ProviderKey, Mapping[str, resources_pb2.Instance]] = field(
        default_factory=dict[ProviderKey, Mapping[str, resources_pb2.Instance]]
    )
    """The live instances that host a provider."""

    def get(self, key: str) -> Record | None:
        """The record under a key of the store."""
        prefix, rest = records.split(key)
        return self.by_prefix.get(prefix, _NONE).get(rest)

    def resource(self, kind: Kind, identifier: str) -> Resource | None:
        return self.resources(kind).get(identifier)

    def resources(self, kind: Kind) -> Mapping[str, Resource]:
        """The resources of a type by identifier, in no particular order."""
        return cast("Mapping[str, Resource]", self.by_prefix.get(records.prefix(kind), _NONE))

    def provider(self, api: Api.ValueType, provider_id: str) -> resources_pb2.Provider | None:
        return cast("resources_pb2.Provider | None", self.get(records.provider_key(api, provider_id)))

    def providers(self, api: Api.ValueType | None = None) -> Sequence[resources_pb2.Provider]:
        """The providers of an API (None: of all), the default first: in the order of the YAML, then by id."""
        found = cast("Iterable[resources_pb2.Provider]", self.by_prefix.get(records.PROVIDERS, _NONE).values())
        wanted = (provider for provider in found if api is None or provider.api == api)
        return sorted(wanted, key=lambda provider: (provider.api, provider.position, provider.provider_id))

    def handover(self, kind: Kind, identifier: str) -> resources_pb2.Handover | None:
        """What a resource stood for before, while that matters."""
        return cast("resources_pb2.Handover | None", self.get(records.handover_key(kind, identifier)))

    def handovers(self) -> Collection[resources_pb2.Handover]:
        return cast("Collection[resources_pb2.Handover]", self.by_prefix.get(records.HANDOVERS, _NONE).values())

    def instance(self, instance_id: str) -> resources_pb2.Instance | None:
        return self.instances().get(instance_id)

    def instances(self) -> Mapping[str, resources_pb2.Instance]:
        """The live instances by id, in no particular order."""
        return cast("Mapping[str, resources_pb2.Instance]", self.by_prefix.get(records.INSTANCES, _NONE))

    def hosts(self, api: Api.ValueType, provider_id: str) -> Mapping[str, resources_pb2.Instance]:
        """The live instances that host a provider, by id."""
        return self.by_provider.get((api, provider_id), _NONE)

    def same_serving(self, other: Known) -> bool:
        """Whether nobody has said anything new about what is served, or by whom."""
        mine, theirs = (x.by_prefix.get(records.PROVIDERS) for x in (self, other))
        return mine is theirs and self.instances() is other.instances()

    def after(self, changes: Iterable[pb.Entry], revision: int) -> Known:
        """As it is at `revision`. Only the maps that change are copied."""
        edit = _Edit(self)
        for entry in changes:
            edit.put(entry)
        return edit.done(revision)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(found)} {prefix.rstrip('/')}" for prefix, found in self.by_prefix.items())
        return f"<Known [revision {self.revision}: {counts or 'nothing'}]>"


class _Edit:
    """The next revision while it is made: each map is copied when it is first written to."""

    def __init__(self, base: Known) -> None:
        self._base = base
        self._records = dict(base.by_prefix)
        self._hosts = dict(base.by_provider)
        self._own: set[object] = set()

    def put(self, entry: pb.Entry) -> None:
        prefix, rest = records.split(entry.key)
        if prefix == records.INSTANCES:
            self._unhost(rest)
        found = records.of_entry(entry)
        owned = self._copy(self._records, prefix)
        if found is None:
            owned.pop(rest, None)
            return
        owned[rest] = found
        if isinstance(found, resources_pb2.Instance):
            for hosted in found.providers:
                self._copy(self._hosts, (hosted.api, hosted.provider_id))[rest] = found

    def done(self, revision: int) -> Known:
        return replace(self._base, revision=revision, by_prefix=self._records, by_provider=self._hosts)

    def _unhost(self, instance_id: str) -> None:
        before = cast("resources_pb2.Instance | None", self._records.get(records.INSTANCES, _NONE).get(instance_id))
        for hosted in before.providers if before is not None else ():
            key = (hosted.api, hosted.provider_id)
            hosts = self._copy(self._hosts, key)
            hosts.pop(instance_id, None)
            if not hosts:
                del self._hosts[key]
                self._own.discard(key)

    def _copy(self, maps: dict[Any, Mapping[str, Any]], key: Any) -> dict[str, Any]:
        if key not in self._own:
            self._own.add(key)
            maps[key] = dict(maps.get(key, _NONE))
        return cast("dict[str, Any]", maps[key])
