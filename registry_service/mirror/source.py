"""The store as a Reflector reads it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from registry_service import records
from registry_service.store import Commit, Store
from stackmesh.errors import RevisionGone
from stackmesh.reflector import Listed
from stackmesh.registry.v1 import watch_service_pb2 as pb


class StoreSource:
    """Implements stackmesh.reflector.Source."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(self) -> Listed:
        store_id = await self._store.store_id()
        rows, revision = await records.rows(self._store, "")
        await self._check(store_id)
        return Listed(list(records.entries(rows)), revision, store_id)

    async def watch(self, start_revision: int, store_id: str) -> AsyncGenerator[pb.WatchResponse]:
        await self._check(store_id)
        async with aclosing(self._store.watch(start_revision)) as commits:
            async for commit in commits:
                yield response(commit)

    async def _check(self, store_id: str) -> None:
        if store_id != await self._store.store_id():
            raise RevisionGone("the store has been replaced by another one")


def response(commit: Commit) -> pb.WatchResponse:
    """A commit as the watch tells it."""
    changes = [pb.Change(entry=entry, revision=commit.revision) for entry in records.entries(commit.changes)]
    return pb.WatchResponse(revision=commit.revision, changes=changes)
