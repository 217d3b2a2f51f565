"""What the gateway knows of the registry at one revision, and how the next revision is made from it.

Of each entry only what routing needs is kept, and indexed by what a call asks for: of 10,000 models and 1,000 instances
the messages themselves would cost the gateway several times the memory, and every call a search.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from sys import intern
from typing import Any, Final, NamedTuple

from stackmesh.bell import Bell
from stackmesh.registry.v1 import resources_pb2 as rows, watch_service_pb2 as pb
from stackmesh.resources import KINDS, Kind, api_word
from stackmesh.routes import Api, ResourceType

ProviderKey = tuple[Api.ValueType, str]
"""A provider_id is unique within its API."""


class Endpoint(NamedTuple):
    """An instance and where it is reached."""

    instance_id: str
    """Empty for the registry, which is no instance."""
    address: str


class Resource(NamedTuple):
    """A registered name."""

    provider_id: str
    provider_resource_id: str
    pending_reason: str


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider and all it serves."""

    row: rows.Provider
    """As the registry has it, but for `served`."""
    served: frozenset[str]

    @property
    def provider_id(self) -> str:
        return self.row.provider_id

    @property
    def whole(self) -> rows.Provider:
        """As the registry has it, what it serves in order."""
        whole = rows.Provider()
        whole.CopyFrom(self.row)
        whole.served.extend(sorted(self.served))
        return whole


class Failure(NamedTuple):
    """Why an instance cannot serve one resource."""

    provider_resource_id: str
    reason: str


class Host(NamedTuple):
    """How an instance hosts a provider."""

    endpoint: Endpoint
    serves_nothing: bool
    not_served: frozenset[str]
    problem: str
    failures: tuple[Failure, ...]


class Instance(NamedTuple):
    """A live instance."""

    endpoint: Endpoint
    hosts: Mapping[ProviderKey, Host]


_NONE: Final[Mapping[Any, Any]] = {}
_SLICE: Final = 1000
"""Entries taken in at a stretch, some milliseconds: calls in flight do not notice that there is a new list."""
_KIND_OF: Final[Mapping[str, Kind]] = {kind.word: kind for kind in KINDS.values()}
_APIS: Final[Mapping[str, Api.ValueType]] = {api_word(api): api for api in Api.values() if api}


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """The registry at `revision`. Nothing in it ever changes, but what has been worked out from it is kept."""

    revision: int = 0
    store_id: str = ""
    """The store that revision belongs to."""
    saved_at: float | None = None
    """When the registry was last heard by who left it in a file, as time.time() has it. None: it was told us itself."""
    by_type: Mapping[ResourceType.ValueType, Mapping[str, Resource]] = field(
        default_factory=dict[ResourceType.ValueType, Mapping[str, Resource]]
    )
    earlier: Mapping[ResourceType.ValueType, Mapping[str, Resource]] = field(
        default_factory=dict[ResourceType.ValueType, Mapping[str, Resource]]
    )
    """What names stood for before an update; calls go there until what they stand for now is served."""
    providers: Mapping[ProviderKey, Provider] = field(default_factory=dict[ProviderKey, Provider])
    instances: Mapping[str, Instance] = field(default_factory=dict[str, Instance])
    by_provider: Mapping[ProviderKey, Mapping[str, Host]] = field(default_factory=dict[ProviderKey, Mapping[str, Host]])
    """The live instances that host a provider, by their ids."""
    memo: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False)
    """What others decided from this snapshot. It goes with it. Never more keys than the registry has entries."""

    def resources(self, kind: ResourceType.ValueType) -> Mapping[str, Resource]:
        """The resources of a type, by identifier."""
        return self.by_type.get(kind, _NONE)

    def targets(self, kind: ResourceType.ValueType, name: str) -> Iterator[Resource]:
        """What a name stands for, and what it stood for before if that still matters."""
        for known in (self.by_type, self.earlier):
            if (resource := known.get(kind, _NONE).get(name)) is not None:
                yield resource

    def hosts(self, key: ProviderKey) -> Collection[Host]:
        """The live instances that host a provider."""
        return self.by_provider.get(key, _NONE).values()

    def after(self, changes: Sequence[pb.Change], revision: int) -> Snapshot:
        """The snapshot at `revision`. Only the maps that change are copied."""
        edit = _Edit(self)
        for change in changes:
            edit.put(change.entry)
        return edit.done(revision)

    def keeping(self, instances: Mapping[str, Instance]) -> Snapshot:
        """The same with some more instances, by their ids."""
        edit = _Edit(self)
        for name, instance in instances.items():
            edit.put_instance(name, instance)
        return edit.done(self.revision)

    def entries(self) -> Iterator[pb.Entry]:
        """What this snapshot can be made from again: the registry's entries, without what routing does not need."""
        for (api, provider_id), provider in self.providers.items():
            yield pb.Entry(key=f"provider/{api_word(api)}/{provider_id}", provider=provider.whole)
        for instance in self.instances.values():
            yield _entry(instance)
        for kind in KINDS.values():
            for identifier, resource in self.resources(kind.resource_type).items():
                entry = pb.Entry(key=f"{kind.word}/{identifier}")
                getattr(entry, kind.word).MergeFrom(kind.message(identifier=identifier, **resource._asdict()))
                yield entry
            for identifier, resource in self.earlier.get(kind.resource_type, _NONE).items():
                entry = pb.Entry(key=f"handover/{kind.word}/{identifier}")
                earlier = kind.message(identifier=identifier, **resource._asdict())
                getattr(entry.handover, kind.word).MergeFrom(earlier)
                yield entry

    def __repr__(self) -> str:
        kinds = [f"{len(self.resources(t))} {kind.plural}" for t, kind in KINDS.items() if self.resources(t)]
        counts = ", ".join([*kinds, f"{len(self.providers)} providers", f"{len(self.instances)} instances"])
        return f"<Snapshot [revision {self.revision}, {counts}]>"


def _entry(instance: Instance) -> pb.Entry:
    """A live instance as the registry tells it."""
    (instance_id, address), hosts = instance
    providers = [
        rows.HostedProvider(
            api=api,
            provider_id=provider_id,
            serves_nothing=host.serves_nothing,
            not_served=sorted(host.not_served),
            problem=host.problem,
            failures=[rows.Failure(**failure._asdict()) for failure in host.failures],
        )
        for (api, provider_id), host in hosts.items()
    ]
    row = rows.Instance(instance_id=instance_id, address=address, providers=providers)
    return pb.Entry(key=f"instance/{instance_id}", instance=row)


class _Edit:
    """The next snapshot while it is made: each map is copied when it is first written to."""

    def __init__(self, base: Snapshot) -> None:
        self._base = base
        self._by_type = dict(base.by_type)
        self._earlier = dict(base.earlier)
        self._providers = dict(base.providers)
        self._instances: dict[str, Instance] | None = None  # not written to
        self._by_provider = dict(base.by_provider)
        self._own: set[object] = set()

    def put(self, entry: pb.Entry) -> None:
        """An entry as it is now. What this version does not know is passed over."""
        prefix, _, name = entry.key.partition("/")
        there = entry.WhichOneof("value") is not None
        if (kind := _KIND_OF.get(prefix)) is not None:
            self._put_resource(self._by_type, kind, name, getattr(entry, prefix) if there else None)
        elif prefix == "handover":
            word, _, name = name.partition("/")
            if (kind := _KIND_OF.get(word)) is not None:
                self._put_resource(self._earlier, kind, name, getattr(entry.handover, word) if there else None)
        elif prefix == "instance":
            self.put_instance(name, _instance(entry.instance) if there else None)
        elif prefix == "provider":
            api, _, provider_id = name.partition("/")
            if api in _APIS:
                self._put_provider((_APIS[api], provider_id), entry.provider if there else None)

    def put_instance(self, name: str, instance: Instance | None) -> None:
        """An instance as it is now; None: it is gone."""
        if self._instances is None:
            self._instances = dict(self._base.instances)
        before = self._instances.pop(name, None)
        for key in before.hosts if before is not None else ():
            self._copy(self._by_provider, key).pop(name, None)
            self._drop_if_empty(self._by_provider, key)
        if instance is not None:
            self._instances[name] = instance
            for key, host in instance.hosts.items():
                self._copy(self._by_provider, key)[name] = host

    def done(self, revision: int) -> Snapshot:
        return replace(
            self._base,
            revision=revision,
            by_type=self._by_type,
            earlier=self._earlier,
            providers=self._providers,
            instances=self._base.instances if self._instances is None else self._instances,
            by_provider=self._by_provider,
            memo={},
        )

    def _put_resource(self, maps: dict[Any, Mapping[str, Resource]], kind: Kind, name: str, row: Any) -> None:
        known = self._copy(maps, kind.resource_type)
        if row is not None:
            known[name] = Resource(intern(row.provider_id), row.provider_resource_id, row.pending_reason)
        else:
            known.pop(name, None)
            self._drop_if_empty(maps, kind.resource_type)

    def _put_provider(self, key: ProviderKey, row: rows.Provider | None) -> None:
        if row is None:
            self._providers.pop(key, None)
            return
        served = frozenset(row.served)
        kept = rows.Provider()
        kept.CopyFrom(row)
        kept.ClearField("served")
        self._providers[key] = Provider(rows.Provider.FromString(kept.SerializeToString()), served)

    def _copy(self, maps: dict[Any, Mapping[str, Any]], key: Any) -> dict[str, Any]:
        """The map under a key, as one that is this edit's own."""
        if (id(maps), key) not in self._own:
            self._own.add((id(maps), key))
            maps[key] = dict(maps.get(key, _NONE))
        return maps[key]  # pyright: ignore[reportReturnType] -- the copies are dicts

    def _drop_if_empty(self, maps: dict[Any, Mapping[str, Any]], key: Any) -> None:
        if not maps[key]:
            del maps[key]
            self._own.discard((id(maps), key))


def _instance(row: rows.Instance) -> Instance:
    endpoint = Endpoint(row.instance_id, row.address)
    hosts = {
        (entry.api, intern(entry.provider_id)): Host(
            endpoint,
            entry.serves_nothing,
            frozenset(entry.not_served),
            entry.problem,
            tuple(Failure(failure.provider_resource_id, failure.reason) for failure in entry.failures),
        )
        for entry in row.providers
    }
    return Instance(endpoint, hosts)


async def built(entries: Sequence[pb.Entry], revision: int, store_id: str) -> Snapshot:
    """Everything there is at `revision`, made in slices between which others have their turn."""
    edit = _Edit(Snapshot(store_id=store_id))
    for start in range(0, len(entries), _SLICE):
        for entry in entries[start : start + _SLICE]:
            edit.put(entry)
        await asyncio.sleep(0)
    return edit.done(revision)


class SnapshotView:
    """The latest snapshot; None until the registry was first listed, or a file of it read."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._moved = Bell()

    def replace(
        self, entries: Sequence[pb.Entry], revision: int, store_id: str = "", *, saved_at: float | None = None
    ) -> None:
        """Everything there is: as a reflector's view, with the store it is of, and when it was saved if it was.

        It takes as long as it takes: once calls are answered, `built` is better.
        """
        edit = _Edit(Snapshot(store_id=store_id, saved_at=saved_at))
        for entry in entries:
            edit.put(entry)
        self.step(edit.done(revision))

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        """As a reflector's view."""
        self.step((self.snapshot or Snapshot()).after(changes, revision))

    def step(self, snapshot: Snapshot) -> None:
        """The next one."""
        self.snapshot = snapshot
        self._moved.ring()

    async def changed(self, since: Snapshot | None) -> Snapshot:
        """Wait for a snapshot other than `since`, and return the latest."""
        while self.snapshot is None or self.snapshot is since:
            await self._moved.wait()
        return self.snapshot

    def __repr__(self) -> str:
        return f"<SnapshotView {self.snapshot!r}>"
