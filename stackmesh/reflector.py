"""A live copy of the registry: list everything at one revision, then watch from the next one.

    list at R -> view.replace -> watch from R+1 -> view.apply ... -> broken: watch again from the last whole revision
                                                                 -> REVISION_GONE, or an older revision: list again

There is one reflector in the mesh. Where it reads from is a Source, what it keeps up to date is a View: the gateway's
snapshot, what an instance has to converge to, the registry's own copy of its store. The watch says something at least
every 5 s, so one that is silent for longer than `silence` is dead, whatever its TCP connection believes.

When to try again: a watch that had said something is resumed soon, for all it needs is what came since; a registry that
says nothing is asked ever more rarely, so that a hundred who lost it together come back over some seconds; who is told
to list again does so at once, unless that was not long ago. A view that fails is filled anew, ever more rarely.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

import grpc

from stackmesh.backoff import Backoff
from stackmesh.bell import Bell
from stackmesh.errors import MeshError, RevisionGone, Timeout, from_rpc_error
from stackmesh.reasons import REMIND_SECONDS, Reasons
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.resources import KINDS

log = logging.getLogger(__name__)

STALE_AFTER: Final = 9.0
"""Seconds without a word from the registry after which a copy counts as stale."""

_PAGE_TIMEOUT: Final = 10.0
_AWAY_AFTER: Final = 5.0
"""Seconds of silence that are an outage, though the copy does not yet count as stale: a watch says something sooner."""
_LIST_TIMEOUT: Final = 60.0
"""Seconds for all pages together."""
_PAGE_SIZE: Final = 1000
_PATIENT: Final = 10.0
"""Seconds between two tries at most while the registry says nothing. Half of it at least, drawn anew each time."""
_HASTY: Final = 0.5
"""Seconds between two tries at most while it answers and breaks again."""
_WELL_AFTER: Final = 10.0
"""Seconds that a watch has to hold before a break of it counts as the first."""
_BY_WORD: Final = {kind.word: kind for kind in KINDS.values()}


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything that is wanted, at one revision of one store."""

    entries: Sequence[pb.Entry]
    revision: int
    store_id: str


class Source(Protocol):
    """Where a copy is made from. Both methods raise MeshErrors only."""

    async def list(self) -> Listed:
        """Everything at the current revision."""
        ...

    def watch(self, start_revision: int, store_id: str) -> AsyncGenerator[pb.WatchResponse]:
        """Whole revisions from `start_revision` on, as WatchService.Watch gives them.

        Raises RevisionGone when they are no longer there or the store is another one: list again.
        """
        ...


class RegistrySource:
    """The registry's WatchService. `bare`: without what is the resources' own, their metadata and params."""

    def __init__(self, channel: grpc.aio.Channel, wanted: pb.EntryFilter | None = None, *, bare: bool = False) -> None:
        self._stub = WatchServiceStub(channel)
        self._filter = wanted
        self._bare = bare

    async def list(self) -> Listed:
        request = pb.ListEntriesRequest(page_size=_PAGE_SIZE, filter=self._filter)
        first = page = await self._page(request)
        entries = list(first.entries)
        while page.next_page_token:
            request.page_token = page.next_page_token
            page = await self._page(request)
            if (page.revision, page.store_id) != (first.revision, first.store_id):
                raise RevisionGone("the pages of a list are not of one revision")
            entries.extend(page.entries)
        return Listed(entries, first.revision, first.store_id)

    async def _page(self, request: pb.ListEntriesRequest) -> pb.ListEntriesResponse:
        try:
            page = await self._stub.ListEntries(request, timeout=_PAGE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        return _bared(page) if self._bare else page

    async def watch(self, start_revision: int, store_id: str) -> AsyncGenerator[pb.WatchResponse]:
        request = pb.WatchRequest(start_revision=start_revision, store_id=store_id, filter=self._filter)
        call = self._stub.Watch(request)
        try:
            while isinstance(response := await call.read(), pb.WatchResponse):
                if self._bare:
                    _strip(change.entry for change in response.changes)
                yield response
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()


def _bared(page: pb.ListEntriesResponse) -> pb.ListEntriesResponse:
    _strip(page.entries)
    return pb.ListEntriesResponse.FromString(page.SerializeToString())  # a message cleared still holds its memory


def _strip(entries: Iterable[pb.Entry]) -> None:
    for entry in entries:
        for holder, word in (
            (entry, entry.WhichOneof("value")),
            (entry.handover, entry.handover.WhichOneof("earlier")),
        ):
            if (kind := _BY_WORD.get(word or "")) is not None:
                getattr(holder, kind.word).ClearField(kind.payload)


class View(Protocol):
    """What is kept up to date. Both methods are called from the event loop, and must not block it."""

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> Awaitable[None] | None:
        """Everything there is at `revision`: forget what was before. What takes long may be awaited."""
        ...

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        """Whole revisions, in order, up to `revision`. Empty: nothing changed."""
        ...


class Reflector:
    """Keeps a view in step with a source for as long as `run` runs."""

    def __init__(
        self,
        source: Source,
        view: View,
        *,
        silence: float = STALE_AFTER,
        stale_after: float = STALE_AFTER,
        patience: float = _PATIENT,
        remind_after: float = REMIND_SECONDS,
        well_after: float = _WELL_AFTER,
        called: str = "the registry",
    ) -> None:
        """`patience` is for those who are few: they may try more often while nothing answers. `called` is what the
        source is to whoever reads the log.
        """
        self._source = source
        self._view = view
        self._silence = silence
        self._stale_after = stale_after
        self._patient = Backoff(limit=patience)
        self._hasty = Backoff(limit=_HASTY)
        self._mending = Backoff(limit=_PATIENT)
        self._well_after = well_after
        self._well = True  # nothing has been wrong of late: whoever is told to list again need not wait
        self._called = called
        self._reasons = Reasons(remind_after)
        self._revision: int | None = None  # None: list first
        self._store_id = ""
        self._answered = False  # since the last break
        self._heard = -math.inf
        self._returned = -math.inf
        self._moved = Bell()

    @property
    def revision(self) -> int | None:
        """The last whole revision in the view; None before a list, be it the first or one that was told."""
        return self._revision

    @property
    def store_id(self) -> str:
        """The store the revision belongs to; empty before the first list."""
        return self._store_id

    @property
    def age(self) -> float:
        """Seconds since the view took what the registry said, be it that nothing has changed; infinite before the first
        list.
        """
        return time.monotonic() - self._heard

    @property
    def stale(self) -> bool:
        """Whether that was so long ago that the view may be far behind: the registry is silent, or the view fails.

        A view that is not stale has all but what is on its way.
        """
        return self.age > self._stale_after

    @property
    def back_for(self) -> float:
        """Seconds since the registry was heard again after it had been away; infinite if it never was."""
        return time.monotonic() - self._returned

    async def run(self) -> None:
        """List and watch until cancelled. Never fails: whatever goes wrong is tried again."""
        while True:
            try:
                if self._revision is None:
                    await self._list()
                await self._watch(self._revision or 0)
            except RevisionGone as error:
                log.warning("revision %s is gone, listing again: %s", self._revision, error)
                self._revision = None
                at_once, self._answered, self._well = self._answered and self._well, False, False
                await asyncio.sleep(0 if at_once else self._hasty.delay())
                continue
            except MeshError as error:
                self._lost(f"lost {self._called}: {error.code.name} {error}")
            except TimeoutError:
                self._lost(f"lost {self._called}: silent for {self._silence:g} s")
            except Exception as error:  # noqa: BLE001 -- whatever it is, it is told
                self._lost(f"the view failed: {error!r}", error)
                self._revision, self._answered = None, False
                await asyncio.sleep(self._mending.delay())
                continue
            answered, self._answered = self._answered, False
            await asyncio.sleep((self._hasty if answered else self._patient).delay())

    async def reached(self, revision: int, store_id: str | None = None) -> None:
        """Wait until the view holds `revision` of that store (None: of whichever). The caller sets the time limit."""
        while self._revision is None or self._revision < revision or store_id not in {None, self._store_id}:
            await self._moved.wait()

    async def _list(self) -> None:
        try:
            async with asyncio.timeout(_LIST_TIMEOUT):
                listed = await self._source.list()
        except TimeoutError:
            raise Timeout(f"a list took longer than {_LIST_TIMEOUT:g} s") from None
        self._hear()
        self._store_id = listed.store_id
        replaced = self._view.replace(listed.entries, listed.revision)
        if replaced is not None:
            await replaced
        log.info("listed %d entries at revision %d", len(listed.entries), listed.revision)
        self._step(listed.revision)

    async def _watch(self, revision: int) -> None:
        async with aclosing(self._source.watch(revision + 1, self._store_id)) as responses:
            began = time.monotonic()
            while True:
                async with asyncio.timeout(self._silence):
                    response = await anext(responses, None)
                if response is None:
                    return  # the registry ended the stream in good order
                if response.revision < revision or (response.changes and response.revision == revision):
                    raise RevisionGone(f"the registry is at revision {response.revision} now")
                revision = response.revision
                self._hear()
                if response.changes:
                    self._view.apply(response.changes, revision)
                self._step(revision)
                self._answered = True
                if time.monotonic() - began > self._well_after:
                    self._well = True
                    self._hasty.reset()
                    self._mending.reset()
                    self._reasons.forget()

    def _hear(self) -> None:
        """The registry has said something; the view, which is told next, may ask whether it had been away."""
        self._patient.reset()
        now = time.monotonic()
        if min(self._stale_after, _AWAY_AFTER) < now - self._heard < math.inf:
            self._returned = now

    def _step(self, revision: int) -> None:
        """The view has it."""
        self._heard = time.monotonic()
        self._revision = revision
        self._moved.ring()

    def _lost(self, why: str, error: Exception | None = None) -> None:
        """Say so: at once, when the reason is another one, and now and then while it lasts."""
        level = logging.WARNING if self._reasons.new(why) else logging.DEBUG
        log.log(level, "%s; at revision %s, trying again", why, self._revision, exc_info=error)

    def __repr__(self) -> str:
        return f"<Reflector [revision {self._revision}, heard {self.age:.1f} s ago]>"
