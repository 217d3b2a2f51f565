"""client.watch: what changes in the registry, as it changes. The reflector lists, watches, and comes back.

What the reader has not taken yet holds up the stream, so a slow reader costs little memory and misses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import grpc

from stackmesh.errors import DeadlineExceeded, InvalidField, MeshError, RevisionGone, Unavailable
from stackmesh.reflector import Listed, Reflector, Source
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.resources import Resource
from stackmesh.tasks import background

Word = Literal["model", "shield", "memory_bank", "agent", "provider", "instance", "handover"]
Record = Resource | resources_pb2.Provider | resources_pb2.Instance | resources_pb2.Handover


class What(StrEnum):
    """What has become of it."""

    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing, at one revision."""

    what: What
    kind: Word
    name: str
    """Its identifier; of a provider `API/ID`, of a handover `TYPE/NAME`."""
    record: Record | None
    """As it is now; of what was removed as it was, None if that is not known."""
    revision: int
    """That made the change. Watched from there again, nothing is left out, and what it did is told again."""
    initial: bool = False
    """It was there when the watch began."""


def wanted(kinds: Collection[Word]) -> pb.EntryFilter:
    """What the registry is asked for. Nothing: everything."""
    return pb.EntryFilter(kinds=[pb.EntryKind.Value(f"ENTRY_KIND_{kind.upper()}") for kind in kinds])


async def changes(feed: Feed) -> AsyncGenerator[Change]:
    """As Client.watch says."""
    async with background(Reflector(feed, feed, called="the mesh").run(), "watch the mesh", vital=False):
        while True:
            yield await feed.next()
            feed.taken()


class Feed:
    """Both ends of a reflector: where it reads from, and where what it has read goes."""

    def __init__(self, source: Source, start_revision: int | None, store_id: str) -> None:
        """Raises InvalidField."""
        if start_revision is not None and not 1 <= start_revision < 2**63:
            raise InvalidField("start_revision", f"is {start_revision}, which no revision is: they begin with 1")
        self._source = source
        self._start = start_revision
        self._store_id = store_id
        self._heard = False
        self._known: dict[str, pb.Entry] = {}
        self._told: asyncio.Queue[Change | MeshError] = asyncio.Queue()

    async def next(self) -> Change:
        told = await self._told.get()
        if isinstance(told, MeshError):
            raise told
        return told

    def taken(self) -> None:
        """The reader is done with the one before."""
        self._told.task_done()

    async def list(self) -> Listed:
        if self._start is not None:  # the reader knows what was there before
            return Listed((), self._start - 1, self._store_id)
        try:
            return await self._source.list()
        except MeshError as error:
            await self._fail_unless_heard(error)
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError):
            await self._fail_if_closed()
            raise

    async def watch(self, start_revision: int, store_id: str) -> AsyncGenerator[pb.WatchResponse]:
        try:
            async with aclosing(self._source.watch(start_revision, store_id)) as responses:
                async for response in responses:
                    self._heard = True
                    yield response
                    await self._told.join()
        except DeadlineExceeded:
            return  # the gateway ends a stream after a while: watch on from where it was
        except RevisionGone as error:
            if self._start is not None:  # what was removed meanwhile nobody can tell
                await self._fail(error)
            raise
        except MeshError as error:
            await self._fail_unless_heard(error)
            raise
        except (asyncio.CancelledError, grpc.aio.UsageError):
            await self._fail_if_closed()
            raise

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        if self._start is not None:
            return
        initial, self._heard = not self._heard, True
        now = {entry.key: entry for entry in entries}
        for key in self._known.keys() - now.keys():
            self._tell(pb.Entry(key=key), revision)
        for entry in entries:
            if self._known.get(entry.key) != entry:
                self._tell(entry, revision, initial=initial)

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:  # noqa: ARG002 -- as a View is told
        for change in changes:
            self._tell(change.entry, change.revision)

    async def _fail_unless_heard(self, error: MeshError) -> None:
        """A mesh that never answered is the reader's to know; one that is lost later is waited for."""
        if not self._heard:
            await self._fail(error)

    async def _fail_if_closed(self) -> None:
        """Nobody has cancelled the reflector, so it was the end of the channel: there is nothing to wait for."""
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            await self._fail(Unavailable("the client was closed"))

    async def _fail(self, error: MeshError) -> None:
        """The reader raises it, which ends the reflector: it has nothing to try again."""
        self._told.put_nowait(error)
        await asyncio.Event().wait()

    def _tell(self, entry: pb.Entry, revision: int, *, initial: bool = False) -> None:
        key, value = entry.key, entry.WhichOneof("value")
        before = self._known.pop(key, None)
        if value is not None:
            self._known[key] = entry
            what, seen = (What.ADDED if before is None else What.UPDATED), entry
        elif before is not None or self._start is not None:
            what, seen = What.REMOVED, before
        else:
            return  # it was never told
        kind, _, name = key.partition("/")
        word: Word = kind  # pyright: ignore[reportAssignmentType] -- the keys' prefixes are the words
        self._told.put_nowait(Change(what, word, name, _record(seen), revision, initial))


def _record(entry: pb.Entry | None) -> Record | None:
    value = None if entry is None else entry.WhichOneof("value")
    return None if value is None else getattr(entry, value)
