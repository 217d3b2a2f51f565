"""WatchService: the registry as a stream. stackmesh/reflector.py is its other end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from registry_service import records
from registry_service.pages import Listing, read_page
from registry_service.store import Commit, Store
from stackmesh.errors import InvalidField, RevisionGone
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceServicer

_LISTING: Final = Listing("entries", "", default_size=500)


class Watch(WatchServiceServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        page = await read_page(self._store, _LISTING, request.page_size, request.page_token)
        return pb.ListEntriesResponse(
            entries=[records.entry(row) for row in page.rows],
            next_page_token=page.next_token,
            revision=page.revision,
            store_id=self._store.store_id,
        )

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncGenerator[pb.WatchResponse]:
        if request.start_revision < 1:
            raise InvalidField("start_revision", "is less than 1, which is the first revision")
        if request.store_id not in ("", self._store.store_id):
            raise RevisionGone("the revision belongs to another store: list again")
        async with aclosing(self._store.watch(request.start_revision)) as commits:
            async for commit in commits:
                yield _response(commit)

    async def GetRevision(self, request: pb.GetRevisionRequest, context: Any) -> pb.GetRevisionResponse:
        return pb.GetRevisionResponse(revision=await self._store.revision(), store_id=self._store.store_id)


def _response(commit: Commit) -> pb.WatchResponse:
    changes = [pb.Change(entry=records.entry(change), revision=commit.revision) for change in commit.changes]
    return pb.WatchResponse(revision=commit.revision, changes=changes)
