"""Providers and instances as they are known, changed in memory, written back by compare-and-swap."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Final

from registry_service import records
from registry_service.mirror.known import Known
from registry_service.records import Record
from registry_service.store import COMMIT_LIMIT, Delete, Op, Put, Store
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api

COMMIT_BYTES: Final = 1024 * 1024
"""Of one commit, unless a single record is larger. etcd refuses requests over 1.5 MiB."""


class Draft:
    """The providers and instances there are, and what shall become of them. A record it hands out is a copy."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._ops: dict[str, Op] = {}
        self._changed: dict[str, Record | None] = {}
        self._moved = frozenset[str]()  # keys that are written even if they are as before

    def providers(self) -> list[pb.Provider]:
        keys = {records.key_of(provider) for provider in self._known.providers()}
        keys.update(key for key in self._changed if key.startswith(records.PROVIDERS))
        there = (self._now(key) for key in sorted(keys))
        return [copy.deepcopy(provider) for provider in there if isinstance(provider, pb.Provider)]

    def provider(self, api: Api.ValueType, provider_id: str) -> pb.Provider | None:
        found = self._now(records.provider_key(api, provider_id))
        return copy.deepcopy(found) if isinstance(found, pb.Provider) else None

    def instance(self, instance_id: str) -> pb.Instance | None:
        found = self._now(records.instance_key(instance_id))
        return copy.deepcopy(found) if isinstance(found, pb.Instance) else None

    def at(self, address: str) -> list[pb.Instance]:
        """The instances that are known at an address. More than one is a mistake."""
        here = {i.instance_id for i in self._known.instances().values() if i.address == address}
        here.update(i.instance_id for i in self._changed.values() if isinstance(i, pb.Instance))
        there = (self.instance(instance_id) for instance_id in sorted(here))
        return [instance for instance in there if instance is not None and instance.address == address]

    def hosts(self, api: Api.ValueType, provider_id: str) -> Iterator[pb.Instance]:
        """Who hosts a provider, one after the other and uncopied, since there may be a thousand: only to be read."""
        hosts = self._known.hosts(api, provider_id).values()
        yield from (host for host in hosts if records.key_of(host) not in self._changed)
        for changed in self._changed.values():
            if isinstance(changed, pb.Instance) and any(
                (entry.api, entry.provider_id) == (api, provider_id) for entry in changed.providers
            ):
                yield changed

    def put(self, record: pb.Provider | pb.Instance, *, always: bool = False) -> None:
        """`always` writes a record that has not changed too, so that whoever has read it has to read again; also if it
        is put once more without.
        """
        key, value = records.key_of(record), records.encode(record)
        lease = record.lease_id if isinstance(record, pb.Instance) else 0
        before = self._known.get(key)
        self._ops.pop(key, None)
        if always:
            self._moved |= {key}
        if key in self._moved or before is None or records.encode(before) != value:
            self._ops[key] = Put(key, value, lease)
        self._changed[key] = copy.deepcopy(record)

    def delete(self, record: pb.Provider | pb.Instance) -> None:
        key = records.key_of(record)
        self._ops.pop(key, None)
        self._ops[key] = Delete(key)
        self._changed[key] = None

    def fork(self) -> Draft:
        """The same, to be changed further or thrown away."""
        fork = copy.copy(self)
        fork._ops, fork._changed = dict(self._ops), dict(self._changed)  # noqa: SLF001 -- it is one of us
        return fork

    @property
    def fits(self) -> bool:
        """Whether what has changed is one commit."""
        return len(list(self._parts())) <= 1

    async def commit(self, store: Store) -> int:
        """Write what has changed, in the order it was put, as one revision if it fits. Raises Conflict."""
        revision = self._known.revision
        for part in self._parts():
            revision = await store.commit(list(part.values()), expect={key: self._revision(key) for key in part})
        return revision

    def _parts(self) -> Iterator[Mapping[str, Op]]:
        part: dict[str, Op] = {}
        size = 0
        for key, op in self._ops.items():
            length = len(op.value) if isinstance(op, Put) else 0
            if part and (len(part) == COMMIT_LIMIT or size + length > COMMIT_BYTES):
                yield part
                part, size = {}, 0
            part[key] = op
            size += length
        if part:
            yield part

    def _now(self, key: str) -> Record | None:
        return self._changed[key] if key in self._changed else self._known.get(key)

    def _revision(self, key: str) -> int:
        before = self._known.get(key)
        return before.revision if before is not None else 0
