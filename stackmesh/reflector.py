"""A live copy of the registry: list everything at one revision, then watch from the next one.

    list at R -> view.replace -> watch from R+1 -> view.apply ... -> broken: watch again from the last whole revision
                                                                 -> REVISION_GONE: list again

There is one reflector in the mesh; the gateway's snapshot is a view on it. The watch says something at least every 5 s,
so one that is silent for longer than `silence` is dead, whatever its TCP connection believes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

import grpc

from stackmesh.backoff import Backoff
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub

log = logging.getLogger(__name__)

STALE_AFTER: Final = 15.0
"""Seconds without a word from the registry after which a copy counts as stale."""

_LIST_TIMEOUT: Final = 10.0
_PAGE_SIZE: Final = 1000


class View(Protocol):
    """What is kept up to date. Both methods are called from the event loop, and must not block it."""

    def replace(self, entries: Sequence[pb.Entry], revision: int) -> None:
        """Everything there is at `revision`: forget what was before."""
        ...

    def apply(self, changes: Sequence[pb.Change], revision: int) -> None:
        """Whole revisions, in order, up to `revision`. Empty: nothing changed."""
        ...


class Reflector:
    """Keeps a view in step with the registry for as long as `run` runs."""

    def __init__(self, channel: grpc.aio.Channel, view: View, *, silence: float = STALE_AFTER) -> None:
        self._stub = WatchServiceStub(channel)
        self._view = view
        self._silence = silence
        self._backoff = Backoff()
        self._revision: int | None = None  # None: list first
        self._store_id = ""
        self._heard = -float("inf")
        self._moved = asyncio.Event()

    @property
    def revision(self) -> int | None:
        """The last whole revision in the view; None before the first list."""
        return self._revision

    @property
    def age(self) -> float:
        """Seconds since the registry was last heard; infinite before the first list."""
        return time.monotonic() - self._heard

    @property
    def stale(self) -> bool:
        """Whether the registry has been silent for so long that the view may be out of date."""
        return self.age > STALE_AFTER

    async def run(self) -> None:
        """List and watch until cancelled. Never fails: whatever goes wrong is tried again."""
        while True:
            try:
                if self._revision is None:
                    await self._list()
                await self._watch(self._revision or 0)
            except grpc.aio.AioRpcError as error:
                self._lost(error.code(), error.details() or "")
            except TimeoutError:
                self._lost(grpc.StatusCode.DEADLINE_EXCEEDED, f"silent for {self._silence:g} s")
            await asyncio.sleep(self._backoff.delay())

    async def reached(self, revision: int) -> None:
        """Wait until the view holds `revision`. The caller sets the time limit."""
        while self._revision is None or self._revision < revision:
            await self._moved.wait()

    async def _list(self) -> None:
        request = pb.ListEntriesRequest(page_size=_PAGE_SIZE)
        entries: list[pb.Entry] = []
        while True:
            page = await self._stub.ListEntries(request, timeout=_LIST_TIMEOUT)
            entries.extend(page.entries)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        self._store_id = page.store_id
        self._view.replace(entries, page.revision)
        log.info("listed %d entries at revision %d", len(entries), page.revision)
        self._step(page.revision)

    async def _watch(self, revision: int) -> None:
        call = self._stub.Watch(pb.WatchRequest(start_revision=revision + 1, store_id=self._store_id))
        try:
            while True:
                async with asyncio.timeout(self._silence):
                    response = await call.read()
                if not isinstance(response, pb.WatchResponse):
                    return  # the registry ended the stream in good order
                self._backoff.reset()
                if response.changes:
                    self._view.apply(response.changes, response.revision)
                self._step(response.revision)
        finally:
            call.cancel()

    def _step(self, revision: int) -> None:
        self._revision = revision
        self._heard = time.monotonic()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _lost(self, code: grpc.StatusCode, why: str) -> None:
        if code is grpc.StatusCode.OUT_OF_RANGE:
            log.warning("revision %s is gone, listing again: %s", self._revision, why)
            self._revision = None
        else:
            log.warning("lost the registry at revision %s, trying again: %s %s", self._revision, code.name, why)

    def __repr__(self) -> str:
        return f"<Reflector [revision {self._revision}, heard {self.age:.1f} s ago]>"
