"""What was committed, as a stream of whole revisions.

Revisions are taken from events, once all pieces of an answer have come, and from the watch's own notifications of
progress. Never from other headers: theirs may be ahead of events that are still to be delivered. The answer to a
WatchProgressRequest is such a one before etcd 3.5.8 (etcd-io/etcd#15220), so it only says that the member lives.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import groupby
from typing import Final

from registry_service.etcd.client import Client
from registry_service.etcd.errors import of_text, silent
from registry_service.etcd.stream import Stream, opened
from registry_service.etcd.wire import RANGE, WATCH, end_of
from registry_service.store import Commit, Delete, Row
from stackmesh.errors import RevisionGone
from stackmesh.etcd.v1 import etcd_pb2 as pb

_ANSWER_SECONDS: Final = 3.0
_PROBE: Final = pb.WatchRequest(progress_request=pb.WatchProgressRequest())

Change = Row | Delete


class Watch:
    """The commits below a prefix from `start` on. `change` makes a change of an event, None of a hidden one."""

    def __init__(
        self, client: Client, prefix: bytes, start: int, change: Callable[[pb.Event], Change | None], silence: float
    ) -> None:
        """The member is asked for a sign of life after `silence` seconds."""
        self._client = client
        self._prefix = prefix
        self._start = start
        self._change = change
        self._silence = silence
        self._delivered = start - 1
        """Everything up to this revision has been delivered."""

    async def commits(self) -> AsyncGenerator[Commit]:
        """As Store.watch gives them."""
        cluster = await self._check_start()
        async with opened(self._client, WATCH) as stream:
            stream.write(pb.WatchRequest(create_request=self._request()))
            created = await self._hear(stream)
            self._check(created, cluster, stream.address)
            events: list[pb.Event] = []
            while True:
                answer = await self._hear(stream)
                self._check(answer, cluster, stream.address)
                if answer.watch_id == created.watch_id:
                    events += answer.events
                    if answer.fragment:
                        continue
                for commit in self._commits(events):
                    yield commit
                    self._delivered = commit.revision
                self._delivered = max(self._delivered, self._progress(answer, created.watch_id))
                if not events:
                    yield Commit(self._delivered, ())
                events = []

    async def _hear(self, stream: Stream[pb.WatchRequest, pb.WatchResponse]) -> pb.WatchResponse:
        """The next answer, asked for after a time of silence."""
        answer = await stream.next(self._silence)
        if answer is None:
            stream.write(_PROBE)
            answer = await stream.next(_ANSWER_SECONDS)
        if answer is None:
            raise silent(stream.address)
        return answer

    def _progress(self, answer: pb.WatchResponse, watch_id: int) -> int:
        """Up to where an answer says that everything has been delivered; 0 if it does not say."""
        return answer.header.revision if answer.watch_id == watch_id and not answer.events else 0

    def _commits(self, events: Iterable[pb.Event]) -> Iterable[Commit]:
        for revision, group in groupby(events, key=lambda event: event.kv.mod_revision):
            changes = [change for change in map(self._change, group) if change is not None]
            yield Commit(revision, tuple(sorted(changes, key=lambda change: change.key)))

    async def _check_start(self) -> int:
        """The cluster the watch is of. Raises RevisionGone if it cannot begin at its start."""
        if self._start <= 0:
            raise RevisionGone(f"there is no revision {self._start}")
        before = self._client.cluster
        header = (await self._client.call(RANGE, pb.RangeRequest(key=self._prefix), repeatable=True)).header
        if before not in (0, header.cluster_id):
            raise _replaced()
        if self._start > header.revision + 1:
            raise RevisionGone(f"revision {self._start} lies in the future: the store is at {header.revision}")
        return header.cluster_id

    def _check(self, answer: pb.WatchResponse, cluster: int, address: str) -> None:
        if not cluster == answer.header.cluster_id == self._client.cluster:
            raise _replaced()
        if answer.compact_revision:
            raise RevisionGone(f"revisions before {answer.compact_revision} have been compacted")
        if answer.canceled:  # it may have been created all the same, which says nothing
            raise of_text(answer.cancel_reason or "the watch was cancelled", address)

    def _request(self) -> pb.WatchCreateRequest:
        return pb.WatchCreateRequest(
            key=self._prefix,
            range_end=end_of(self._prefix),
            start_revision=self._start,
            progress_notify=True,
            fragment=True,
        )


def _replaced() -> RevisionGone:
    return RevisionGone("the registry's store has been replaced by another etcd cluster")
