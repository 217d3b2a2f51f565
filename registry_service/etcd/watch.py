"""What was committed, as a stream of whole revisions.

Revisions are taken from events, once they are whole, and from the watch's own notifications of progress. Never from
other headers: theirs may be ahead of events that are still to be delivered. The answer to a WatchProgressRequest is
such a one before etcd 3.5.8 (etcd-io/etcd#15220), so it only says that the member lives.

etcd does not answer a WatchProgressRequest at all while a watch begins in the future (from 3.5.22 and 3.6.2 on), as one
does whose reader knows everything there is. So each watch begins at the revision before the first that is wanted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final

from registry_service.etcd.assembler import Assembler
from registry_service.etcd.client import Client
from registry_service.etcd.errors import confused, of_text, silent
from registry_service.etcd.identity import Head, Identity
from registry_service.etcd.layout import Layout
from registry_service.etcd.stream import Stream, opened
from registry_service.etcd.wire import WATCH, end_of
from registry_service.store import Commit
from stackmesh.errors import RevisionGone
from stackmesh.etcd.v1 import etcd_pb2 as pb

_ANSWER_SECONDS: Final = 3.0
_AT_ONCE: Final = 10
"""Commits of one answer that are given in a row. There may be a thousand in it, and each of them is work."""
_PROBE: Final = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
_NO_WATCH: Final = -1
"""Is said to be meant by the answer to a probe."""

WatchStream = Stream[pb.WatchRequest, pb.WatchResponse]


class Watch:
    """The commits of a store from `start` on."""

    def __init__(self, client: Client, layout: Layout, identity: Identity, start: int, silence: float) -> None:
        """The member is asked for a sign of life after `silence` seconds."""
        self._client = client
        self._layout = layout
        self._identity = identity
        self._start = start
        self._silence = silence
        self._cluster = 0
        self._id = b""  # of the store, when the watch began
        self._delivered = start - 1
        """Everything up to this revision has been delivered."""

    async def commits(self) -> AsyncGenerator[Commit]:
        """As Store.watch gives them."""
        await self._check_start()
        async with opened(self._client, WATCH) as stream:
            watch_id = await self._create(stream, max(1, self._start - 1))
            pieces = Assembler()
            while True:
                answer = await self._hear(stream)
                if answer.compact_revision == self._start:  # only what nobody asked for is gone
                    watch_id = await self._create(stream, self._start)
                    continue
                self._check_end(answer, stream.address)
                if answer.watch_id not in (watch_id, _NO_WATCH):
                    raise confused(stream.address)
                for number, events in enumerate(pieces.take(answer)):
                    if number % _AT_ONCE == 0:
                        await self._breathe()
                    commit = self._commit(events)
                    self._delivered = commit.revision
                    yield commit
                if not answer.events:
                    self._delivered = max(self._delivered, self._progress(answer, watch_id))
                    yield Commit(self._delivered, ())

    async def _create(self, stream: WatchStream, start: int) -> int:
        """The id of a new watch."""
        stream.write(pb.WatchRequest(create_request=self._request(start)))
        while not (answer := await self._hear(stream)).created:
            if answer.watch_id != _NO_WATCH:
                raise confused(stream.address)
        self._check_end(answer, stream.address)
        return answer.watch_id

    async def _hear(self, stream: WatchStream) -> pb.WatchResponse:
        """The next answer, asked for after a time of silence."""
        answer = await stream.next(self._silence)
        if answer is None:
            stream.write(_PROBE)
            answer = await stream.next(_ANSWER_SECONDS)
        if answer is None:
            raise silent(stream.address)
        if not self._cluster == answer.header.cluster_id == self._client.cluster:
            raise _replaced()
        return answer

    async def _breathe(self) -> None:
        """Let others have their turn."""
        await asyncio.sleep(0)

    def _progress(self, answer: pb.WatchResponse, watch_id: int) -> int:
        """Up to where an answer says that everything has been delivered; 0 if it does not say."""
        return answer.header.revision if answer.watch_id == watch_id and not answer.events else 0

    def _commit(self, events: Sequence[pb.Event]) -> Commit:
        """Of the revision before the start only that it has come. Raises RevisionGone where another store begins."""
        revision = events[0].kv.mod_revision
        if revision < self._start:
            return Commit(revision, ())
        if any(map(self._renames, events)):
            raise RevisionGone(f"at revision {revision} the registry's store has become another one")
        for event in events:
            if event.kv.key == self._layout.head:
                self._identity.note(Head(revision, event.kv.value))
        changes = [change for change in map(self._layout.change, events) if change is not None]
        return Commit(revision, tuple(sorted(changes, key=lambda change: change.key)))

    def _renames(self, event: pb.Event) -> bool:
        """Whether the store has lost its id, or got another than it has now: what was before is of another store."""
        lost = event.type == pb.EVENT_TYPE_DELETE
        return event.kv.key == self._layout.id and (lost or event.kv.value != self._id)

    async def _check_start(self) -> None:
        """Note which store the watch is of. Raises RevisionGone if it cannot begin at its start."""
        if self._start <= 0:
            raise RevisionGone(f"there is no revision {self._start}")
        before = self._client.cluster
        look = await self._identity.look()
        if before not in (0, look.cluster):
            raise _replaced()
        if self._start > look.revision + 1:
            raise RevisionGone(f"revision {self._start} lies in the future: the store is at {look.revision}")
        self._cluster, self._id = look.cluster, look.name

    def _check_end(self, answer: pb.WatchResponse, address: str) -> None:
        """Raises why the watch has ended, if it has."""
        if answer.compact_revision:
            raise RevisionGone(f"revisions before {answer.compact_revision} have been compacted")
        if answer.canceled:  # it may have been created all the same, which says nothing
            raise of_text(answer.cancel_reason or "the watch was cancelled", address)

    def _request(self, start: int) -> pb.WatchCreateRequest:
        return pb.WatchCreateRequest(
            key=self._layout.root,
            range_end=end_of(self._layout.root),
            start_revision=start,
            progress_notify=True,
            fragment=True,
        )


def _replaced() -> RevisionGone:
    return RevisionGone("the registry's store has been replaced by another etcd cluster")
