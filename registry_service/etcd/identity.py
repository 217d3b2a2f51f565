"""Which store this is, and whether etcd has gone on from what was seen of it.

A snapshot of etcd that is restored into members of the same names bears the same ids, and its revisions may have come
to where they were before anybody looks again. But each commit puts a value of its own into `head`. If `head` at a
revision is what it was seen to be, so is everything before it; if it is not, the store gets another id, and all read it
anew.
"""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from typing import Final, NamedTuple

from registry_service.etcd import wire
from registry_service.etcd.client import Client
from registry_service.etcd.layout import Layout
from stackmesh.errors import RevisionGone
from stackmesh.etcd.v1 import etcd_pb2 as pb

log = logging.getLogger(__name__)


class Head(NamedTuple):
    """The mark of a commit."""

    revision: int
    value: bytes


_NOTHING: Final = Head(0, b"")


class Look(NamedTuple):
    """What etcd says of the store."""

    name: bytes
    """Empty when it has none."""
    named_at: int
    head: Head
    cluster: int
    revision: int
    """Of the whole etcd."""


class Identity:
    """Of a store, as long as it is open."""

    def __init__(self, client: Client, layout: Layout) -> None:
        self._client = client
        self._layout = layout
        self._seen = _NOTHING
        self._cluster: int = 0  # where it was seen

    async def get(self) -> str:
        """The store's id, which includes that of its cluster. Made when there is none."""
        while True:
            with suppress(RevisionGone):  # then it has another one now
                look = await self.look()
                if look.name:
                    return f"{look.name.decode()}-{look.cluster:x}"
                await self._rename(look)

    async def look(self) -> Look:
        """How it is now. Raises RevisionGone if etcd has not gone on from what was seen."""
        seen = self._seen
        look = await self._read()
        if look.cluster != self._cluster:  # which the id says
            self._cluster = look.cluster
            self._seen = look.head
        elif await self._gone_on(seen, look.head):  # asked after `head` was read: what follows is noted as seen
            self.note(look.head)
        else:
            log.warning("etcd has not gone on from what was seen: an older copy of the store is in its place")
            self._seen = _NOTHING
            await self._rename(look)
            raise RevisionGone("the registry's store has been replaced by an older copy of itself")
        return look

    def note(self, head: Head) -> None:
        """It has been seen, and so has all that was before."""
        if head.revision > self._seen.revision:
            self._seen = head

    async def _gone_on(self, seen: Head, now: Head) -> bool:
        if now == seen or seen is _NOTHING:
            return True
        request = pb.RangeRequest(key=self._layout.head, revision=seen.revision)
        try:
            found = (await self._client.call(wire.RANGE, request, repeatable=True)).kvs
        except RevisionGone:  # it lies in the future now, or it has been compacted, and then a later one tells nothing
            return now.revision > seen.revision
        return bool(found) and _head(found[0]) == seen

    async def _rename(self, look: Look) -> None:
        """Give the store a new id, unless somebody else has meanwhile."""
        unchanged = wire.written_at(self._layout.id, look.named_at)
        named = wire.put(self._layout.id, uuid.uuid4().hex.encode())
        await self._client.call(wire.TXN, pb.TxnRequest(compare=[unchanged], success=[named]), repeatable=True)

    async def _read(self) -> Look:
        # Not by a transaction: even one that only reads is refused by an etcd that is full.
        request = pb.RangeRequest(key=self._layout.head, range_end=self._layout.id + b"\0")
        answer = await self._client.call(wire.RANGE, request, repeatable=True)
        found = {kv.key: kv for kv in answer.kvs}
        name = found.get(self._layout.id, pb.KeyValue())
        head = found.get(self._layout.head)
        return Look(
            name=name.value,
            named_at=name.mod_revision,
            head=_head(head) if head else _NOTHING,
            cluster=answer.header.cluster_id,
            revision=answer.header.revision,
        )

    def __repr__(self) -> str:
        return f"<Identity [seen {self._seen}]>"


def _head(kv: pb.KeyValue) -> Head:
    return Head(kv.mod_revision, kv.value)
