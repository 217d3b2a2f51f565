"""Records read at one revision, changed in memory, written back by compare-and-swap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from registry_service import records
from registry_service.records import Record
from registry_service.store import COMMIT_LIMIT, Delete, Op, Put, Row, Store
from stackmesh.backoff import Backoff
from stackmesh.errors import Conflict
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api

log = logging.getLogger(__name__)

ATTEMPTS: Final = 10


class Draft:
    """The providers and instances there are, and what shall become of them. A record it hands out is a copy."""

    def __init__(self, rows: Iterable[Row], revision: int) -> None:
        self.revision = revision
        self._rows = {row.key: row for row in rows}
        self._ops: dict[str, Op] = {}

    def providers(self) -> list[pb.Provider]:
        return [records.provider(row) for row in self._now(records.PROVIDERS)]

    def instances(self) -> list[pb.Instance]:
        return [records.instance(row) for row in self._now(records.INSTANCES)]

    def provider(self, api: Api.ValueType, provider_id: str) -> pb.Provider | None:
        row = self._row(records.provider_key(api, provider_id))
        return None if row is None else records.provider(row)

    def instance(self, instance_id: str) -> pb.Instance | None:
        row = self._row(records.instance_key(instance_id))
        return None if row is None else records.instance(row)

    def put(self, record: Record, lease: int = 0, *, always: bool = False) -> None:
        """`always` writes a record that has not changed too, so that whoever has read it has to read again."""
        put = Put(records.key_of(record), records.encode(record), lease)
        before = self._rows.get(put.key)
        self._ops.pop(put.key, None)
        if always or before is None or (before.value, before.lease) != (put.value, put.lease):
            self._ops[put.key] = put

    def delete(self, record: Record) -> None:
        self._ops[records.key_of(record)] = Delete(records.key_of(record))

    async def commit(self, store: Store) -> int:
        """Write what has changed, in the order it was put, as one revision if it fits. Raises Conflict."""
        ops, revision = list(self._ops.values()), self.revision
        for start in range(0, len(ops), COMMIT_LIMIT):
            part = ops[start : start + COMMIT_LIMIT]
            expect = {op.key: self._rows[op.key].revision if op.key in self._rows else 0 for op in part}
            revision = await store.commit(part, expect=expect)
        return revision

    def _now(self, prefix: str) -> Iterable[Row]:
        keys = self._rows.keys() | self._ops.keys()
        return (row for key in sorted(keys) if key.startswith(prefix) and (row := self._row(key)) is not None)

    def _row(self, key: str) -> Row | None:
        match self._ops.get(key):
            case None:
                return self._rows.get(key)
            case Put(value=value, lease=lease):
                return Row(key, value, 0, lease)
            case Delete():
                return None


async def update(store: Store, change: Callable[[Draft], None]) -> int:
    """Apply `change` to what is there now, again from the start whenever somebody else was faster.

    Returns the revision that holds it. Raises Conflict when that happens too often, and what `change` raises.
    """
    backoff = Backoff(first=0.01, limit=0.2)
    for _ in range(ATTEMPTS - 1):
        try:
            return await _attempt(store, change)
        except Conflict as error:
            log.debug("again: %s", error)
            await asyncio.sleep(backoff.delay())
    return await _attempt(store, change)


async def read(store: Store) -> Draft:
    """A draft of what there is now."""
    providers, revision = await records.rows(store, records.PROVIDERS)
    instances, _ = await records.rows(store, records.INSTANCES, revision)
    return Draft([*providers, *instances], revision)


async def _attempt(store: Store, change: Callable[[Draft], None]) -> int:
    draft = await read(store)
    change(draft)
    return await draft.commit(store)
