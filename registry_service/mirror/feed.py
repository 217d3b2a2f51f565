"""Many watchers, one watch of the store: what the mirror reads is kept in a ring for them.

A watcher whose place is no longer in the ring reads the store itself until it is. While the store is silent nobody is
told anything, and after a while every watcher's stream ends: no checkpoint is given for a store that was not heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from registry_service.filters import Wanted
from registry_service.mirror import source
from registry_service.mirror.ring import Ring, Whole
from registry_service.mirror.telling import provider_of, response, tell
from registry_service.store import Store
from stackmesh.bell import Bell
from stackmesh.errors import RegistryUnreachable, RevisionGone
from stackmesh.reflector import Listed, Source
from stackmesh.registry.v1 import watch_service_pb2 as pb

CHECKPOINT_SECONDS: Final = 3.0
"""A watcher that wants nothing of what happens hears this often how far it is."""
SILENCE: Final = 8.0
"""Seconds without a word from the store after which its watchers are told."""


class Feed:
    """Fed through `source`, read by `watch`."""

    def __init__(self, store: Store, *, silence: float = SILENCE, ring: Ring | None = None) -> None:
        """`ring` is an empty one of another size."""
        self._store = store
        self._silence = silence
        self._ring = ring or Ring(0)
        self._store_id = ""  # none before the first list
        self._revision = 0
        self._lists = 0
        self._providers: dict[str, str] = {}  # of each resource
        self._heard = self._idle = -float("inf")
        self._moved = Bell()

    @property
    def source(self) -> Source:
        """The store as a Reflector reads it, with the feed listening in."""
        return _Overheard(self._store, self)

    def restart(self, listed: Listed) -> None:
        """Everything was read anew: what came before cannot be told from here."""
        self._ring = self._ring.emptied(listed.revision)
        self._store_id, self._revision = listed.store_id, listed.revision
        self._lists += 1
        self._providers = {entry.key: provider for entry in listed.entries if (provider := provider_of(entry))}
        self._hear(idle=False)

    def check_heard(self) -> None:
        """Raises RegistryUnreachable if the store is known to be silent.

        Whoever asked the store itself would wait for it, and all who wait are answered at once when it is back.
        """
        if self._store_id and self._now() - self._heard >= self._silence:
            raise RegistryUnreachable(f"the store has been silent for {self._silence:g} s")

    def take(self, said: pb.WatchResponse) -> None:
        """The next whole revision, or a checkpoint."""
        if said.changes and said.revision > self._revision:
            self._ring.append(Whole(said.revision, [tell(c, self._replace(c.entry)) for c in said.changes]))
        self._revision = max(self._revision, said.revision)
        self._hear(idle=not said.changes)

    async def watch(self, start: int, store_id: str, wanted: Wanted) -> AsyncGenerator[bytes]:
        """Every change of interest from a revision of a store on, as WatchResponses.

        Raises RevisionGone, or RegistryUnreachable once the store has been silent for too long.
        """
        position, sent, lists = start, self._now(), -1
        while True:
            if not self._covers(position, store_id):
                async with aclosing(self._older(position, store_id, wanted)) as older:
                    async for message, following in older:
                        position = following
                        if message:
                            sent = self._now()
                            yield message
                continue  # closing it took its time: the ring may have moved on
            if lists != self._lists:
                lists = await self._check(position)
                continue
            message, position = self._ring.take(position, wanted)
            if not message:
                position = max(position, self._revision + 1)
                if not self._due(sent):
                    await self._more()
                    continue
                message = response(position - 1)
            sent = self._now()
            yield message

    async def _older(self, position: int, store_id: str, wanted: Wanted) -> AsyncGenerator[tuple[bytes, int]]:
        """From the store itself, until the ring has what follows: answers (b"": nothing of interest) and places."""
        if store_id != await self._store.store_id():
            raise RevisionGone("the revision belongs to another store: list again")
        async with aclosing(self._store.watch(position)) as commits:
            async for commit in commits:
                said = source.response(commit)
                told = [message for c in said.changes if (message := tell(c, None).to(wanted))]
                yield response(commit.revision, told) if told or not said.changes else b"", commit.revision + 1
                if self._covers(commit.revision + 1, store_id):
                    return

    def _covers(self, position: int, store_id: str) -> bool:
        return self._store_id == store_id and self._ring.base < position

    async def _check(self, position: int) -> int:
        """Whether there is such a place: it may be further than what has been heard, but not than the store."""
        lists = self._lists
        if position > self._revision + 1:
            try:
                await self._store.list("", limit=1, revision=position - 1)
            except RevisionGone as error:  # which names the one before
                raise RevisionGone(f"there is no revision {position} yet", metadata=error.metadata) from None
        return lists

    def _due(self, sent: float) -> bool:
        return self._heard > sent and (self._idle > sent or self._now() - sent >= CHECKPOINT_SECONDS)

    async def _more(self) -> None:
        """Wait until the store says something."""
        try:
            async with asyncio.timeout_at(self._heard + self._silence):
                await self._moved.wait()
        except TimeoutError:
            self.check_heard()

    def _hear(self, *, idle: bool) -> None:
        self._heard = self._now()
        if idle:
            self._idle = self._heard
        self._moved.ring()

    def _replace(self, entry: pb.Entry) -> str:
        """Keep the provider of a resource; returns the one it had."""
        before = self._providers.pop(entry.key, "")
        if provider_id := provider_of(entry):
            self._providers[entry.key] = provider_id
        return before

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def __repr__(self) -> str:
        return f"<Feed [revision {self._revision}] {self._ring!r}>"


class _Overheard:
    """Implements stackmesh.reflector.Source."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self._source = source.StoreSource(store)
        self._feed = feed

    async def list(self) -> Listed:
        listed = await self._source.list()
        self._feed.restart(listed)
        return listed

    async def watch(self, start_revision: int, store_id: str) -> AsyncGenerator[pb.WatchResponse]:
        async with aclosing(self._source.watch(start_revision, store_id)) as responses:
            async for said in responses:
                self._feed.take(said)
                yield said
