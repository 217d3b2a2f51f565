"""What of a store is kept under which key of etcd.

    PREFIX/keys/KEY    what the store holds
    PREFIX/head        put by every commit, with a value of its own
    PREFIX/id          which store this is

The revision that last wrote `head` is that of the last commit, whatever other meshes write into the same etcd; and a
watch of PREFIX/ comes to it by an event.
"""

from __future__ import annotations

from registry_service.store import Delete, Row
from stackmesh.etcd.v1 import etcd_pb2 as pb

Change = Row | Delete


class Layout:
    """The keys below a prefix."""

    def __init__(self, prefix: str) -> None:
        self.root = prefix.encode() + b"/"
        self.head = self.root + b"head"
        self.id = self.root + b"id"
        self._keys = self.root + b"keys/"

    def key(self, key: str) -> bytes:
        return self._keys + key.encode()

    def row(self, kv: pb.KeyValue) -> Row:
        return Row(kv.key.removeprefix(self._keys).decode(), kv.value, kv.mod_revision, kv.lease)

    def change(self, event: pb.Event) -> Change | None:
        """What an event says to the store's users; None if nothing."""
        if not event.kv.key.startswith(self._keys):
            return None
        row = self.row(event.kv)
        return Delete(row.key) if event.type == pb.EVENT_TYPE_DELETE else row

    def __repr__(self) -> str:
        return f"<Layout {self.root.decode()}>"
