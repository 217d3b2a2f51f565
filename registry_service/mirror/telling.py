"""One change as watchers are told it: encoded once, whoever and however many they are.

The encoding of a WatchResponse is its parts' encodings one after the other, as that of every protobuf message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from registry_service import records
from registry_service.filters import EVERYTHING, Wanted
from stackmesh.registry.v1 import watch_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Told:
    """A change of one entry."""

    prefix: str
    provider_id: str
    """Of a resource, now; empty when it has none or was deleted."""
    before: str | None
    """The same before the change; None if that is not known."""
    encoded: bytes
    """A WatchResponse with nothing but this change."""
    deletion: bytes
    """As above, for those who see a resource go to another provider."""

    def to(self, wanted: Wanted) -> bytes:
        """What a watcher is told of it; empty: nothing."""
        if wanted is EVERYTHING or wanted.of(self.prefix, self.provider_id):
            return self.encoded
        if wanted.kind(self.prefix) and (self.before is None or self.before in wanted.provider_ids):
            return self.deletion
        return b""


def tell(change: pb.Change, before: str | None) -> Told:
    """`before` is the provider that the entry had before; None if that is not known."""
    encoded = deletion = pb.WatchResponse(changes=[change]).SerializeToString()
    if provider_id := provider_of(change.entry):
        gone = pb.Change(entry=pb.Entry(key=change.entry.key), revision=change.revision)
        deletion = pb.WatchResponse(changes=[gone]).SerializeToString()
    return Told(records.split(change.entry.key)[0], provider_id, before, encoded, deletion)


def provider_of(entry: pb.Entry) -> str:
    """The provider of a resource or a handover; empty if it has none, or is deleted."""
    found = records.of_entry(entry)
    return "" if found is None else records.provider_of(found)


def response(revision: int, told: Iterable[bytes] = ()) -> bytes:
    """A WatchResponse; without changes a checkpoint."""
    return pb.WatchResponse(revision=revision).SerializeToString() + b"".join(told)
