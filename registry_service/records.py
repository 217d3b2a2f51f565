"""What is kept under which key. The identifier is last, never split.

model/NAME, shield/NAME, memory_bank/NAME, agent/NAME    a resource
provider/API/ID, instance/ID
handover/TYPE/NAME                                       what a resource stood for before its last update
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Final, TypeVar, cast

from google.protobuf.message import DecodeError

from registry_service.store import Delete, Row, Store, pages
from stackmesh import resources
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2
from stackmesh.registry.v1.watch_service_pb2 import EntryKind
from stackmesh.resources import KINDS, Kind, Resource, api_word, kind_of
from stackmesh.routes import Api

log = logging.getLogger(__name__)

PROVIDERS: Final = "provider/"
INSTANCES: Final = "instance/"
HANDOVERS: Final = "handover/"

Record = Resource | pb.Provider | pb.Instance | pb.Handover
R = TypeVar("R")

_MESSAGES: Final[Mapping[str, type[Record]]] = {
    **{f"{kind.word}/": kind.message for kind in KINDS.values()},
    PROVIDERS: pb.Provider,
    INSTANCES: pb.Instance,
    HANDOVERS: pb.Handover,
}
"""What is kept under keys with a prefix."""

PREFIXES: Final[Mapping[EntryKind.ValueType, str]] = {
    **{kind.entry_kind: f"{kind.word}/" for kind in KINDS.values()},
    EntryKind.ENTRY_KIND_PROVIDER: PROVIDERS,
    EntryKind.ENTRY_KIND_INSTANCE: INSTANCES,
    EntryKind.ENTRY_KIND_HANDOVER: HANDOVERS,
}
"""Where the entries of a kind are kept."""


def prefix(kind: Kind) -> str:
    """Where the resources of a type are kept."""
    return f"{kind.word}/"


def resource_key(kind: Kind, identifier: str) -> str:
    return f"{kind.word}/{identifier}"


def provider_key(api: Api.ValueType, provider_id: str) -> str:
    return f"{PROVIDERS}{api_word(api)}/{provider_id}"


def instance_key(instance_id: str) -> str:
    return f"{INSTANCES}{instance_id}"


def handover_key(kind: Kind, identifier: str) -> str:
    return f"{HANDOVERS}{kind.word}/{identifier}"


def key_of(record: Record) -> str:
    match record:
        case pb.Provider():
            return provider_key(record.api, record.provider_id)
        case pb.Instance():
            return instance_key(record.instance_id)
        case pb.Handover():
            earlier = resources.earlier(record)
            return handover_key(kind_of(earlier), earlier.identifier)
        case _:
            return resource_key(kind_of(record), record.identifier)


def encode(record: Record) -> bytes:
    """The bytes to be stored: without the revision, which is the row's, and without what is only a view."""
    kept = copy.deepcopy(record)
    kept.ClearField("revision")
    if isinstance(kept, Resource):
        kept.ClearField("serving_state")
        kept.ClearField("serving_reason")
    return kept.SerializeToString(deterministic=True)


def record(row: Row) -> Record:
    """The record of a row, whatever it is."""
    found = _MESSAGES[split(row.key)[0]].FromString(row.value)
    found.revision = row.revision
    return found


def resource(row: Row) -> Resource:
    return cast("Resource", record(row))


def provider(row: Row) -> pb.Provider:
    return cast("pb.Provider", record(row))


def instance(row: Row) -> pb.Instance:
    return cast("pb.Instance", record(row))


def handover(row: Row) -> pb.Handover:
    return cast("pb.Handover", record(row))


def provider_of(record: Record) -> str:
    """The provider of a resource, or of what one stood for before; empty for what has none."""
    if isinstance(record, pb.Handover):
        return resources.earlier(record).provider_id
    return record.provider_id if isinstance(record, Resource) else ""


def split(key: str) -> tuple[str, str]:
    """The prefix, which says what is kept there, and the rest."""
    end = key.find("/") + 1
    return key[:end], key[end:]


def entries(changes: Iterable[Row | Delete]) -> Iterator[watch_service_pb2.Entry]:
    """As lists and watches tell them: with the key alone when deleted.

    What a later version has written, and this one does not know, is left out.
    """
    for change in changes:
        if split(change.key)[0] in _MESSAGES and (found := _entry(change)) is not None:
            yield found


def of_entry(entry: watch_service_pb2.Entry) -> Record | None:
    """The record that an entry holds; None when it is deleted."""
    value = entry.WhichOneof("value")
    return None if value is None else getattr(entry, value)


def _entry(change: Row | Delete) -> watch_service_pb2.Entry | None:
    found = watch_service_pb2.Entry(key=change.key)
    if isinstance(change, Row):
        value = getattr(found, split(change.key)[0][:-1])
        try:
            value.ParseFromString(change.value)
        except DecodeError:
            _tell(change.key)
            return None
        value.revision = change.revision
    return found


async def rows(store: Store, prefix: str, revision: int | None = None) -> tuple[list[Row], int]:
    """Every row under a prefix at one revision (None: now), and that revision."""
    found: list[Row] = []
    at = 0
    async with aclosing(pages(store, prefix, revision=revision)) as each:
        async for page in each:
            found.extend(page.rows)
            at = page.revision
    return found, at


async def read(store: Store, prefix: str, make: Callable[[Row], R], revision: int | None = None) -> tuple[list[R], int]:
    """As `rows`, as records."""
    found, at = await rows(store, prefix, revision)
    return readable(found, make), at


def readable(found: Iterable[Row], make: Callable[[Row], R]) -> list[R]:
    """Rows as records. What cannot be read is left out, as in watches: one bad row must not cost the whole list."""
    made: list[R] = []
    for row in found:
        try:
            made.append(make(row))
        except DecodeError:
            _tell(row.key)
    return made


def _tell(key: str) -> None:
    log.warning("what is kept under %s cannot be read: left out", key)
