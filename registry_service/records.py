"""What is kept under which key: `model/NAME`, `provider/API/ID`, `instance/ID`. The identifier is last, never split."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Final, TypeVar

from registry_service.store import Delete, Row, Store
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2
from stackmesh.routes import Api

MODELS: Final = "model/"
PROVIDERS: Final = "provider/"
INSTANCES: Final = "instance/"

Record = pb.Model | pb.Provider | pb.Instance
R = TypeVar("R", pb.Model, pb.Provider, pb.Instance)


def model_key(identifier: str) -> str:
    return f"{MODELS}{identifier}"


def provider_key(api: Api.ValueType, provider_id: str) -> str:
    return f"{PROVIDERS}{api_name(api)}/{provider_id}"


def instance_key(instance_id: str) -> str:
    return f"{INSTANCES}{instance_id}"


def api_name(api: Api.ValueType) -> str:
    """`inference` for API_INFERENCE."""
    return Api.Name(api).removeprefix("API_").lower()


def key_of(record: Record) -> str:
    match record:
        case pb.Model():
            return model_key(record.identifier)
        case pb.Provider():
            return provider_key(record.api, record.provider_id)
        case pb.Instance():
            return instance_key(record.instance_id)


def encode(record: Record) -> bytes:
    """The bytes to be stored: without the revision, which is the row's, and without what is only a view."""
    kept = copy.deepcopy(record)
    kept.ClearField("revision")
    if isinstance(kept, pb.Model):
        kept.ClearField("serving_state")
        kept.ClearField("serving_reason")
    return kept.SerializeToString(deterministic=True)


def model(row: Row) -> pb.Model:
    return _decode(pb.Model, row)


def provider(row: Row) -> pb.Provider:
    return _decode(pb.Provider, row)


def instance(row: Row) -> pb.Instance:
    return _decode(pb.Instance, row)


def entry(change: Row | Delete) -> watch_service_pb2.Entry:
    """As the watch tells it: with the key alone when it was deleted."""
    if isinstance(change, Delete):
        return watch_service_pb2.Entry(key=change.key)
    if change.key.startswith(MODELS):
        return watch_service_pb2.Entry(key=change.key, model=model(change))
    if change.key.startswith(PROVIDERS):
        return watch_service_pb2.Entry(key=change.key, provider=provider(change))
    return watch_service_pb2.Entry(key=change.key, instance=instance(change))


async def rows(store: Store, prefix: str, revision: int | None = None) -> tuple[list[Row], int]:
    """Every row under a prefix at one revision (None: now), and that revision."""
    page = await store.list(prefix, revision=revision)
    found = list(page.rows)
    while page.more:
        page = await store.list(prefix, after=found[-1].key, revision=page.revision)
        found.extend(page.rows)
    return found, page.revision


async def read(store: Store, prefix: str, make: Callable[[Row], R], revision: int | None = None) -> tuple[list[R], int]:
    """As `rows`, as records."""
    found, at = await rows(store, prefix, revision)
    return [make(row) for row in found], at


def _decode(kind: type[R], row: Row) -> R:
    record = kind.FromString(row.value)
    record.revision = row.revision
    return record
