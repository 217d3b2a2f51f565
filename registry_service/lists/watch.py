"""WatchService: the registry as a stream. stackmesh/reflector.py is its other end."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from registry_service import filters, records
from registry_service.filters import Wanted
from registry_service.lists.pages import Listing, read_page
from registry_service.mirror.feed import Feed
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh.errors import InvalidField, RevisionGone
from stackmesh.registry.v1 import watch_service_pb2 as pb


class Watch:
    """The stream's answers are encoded already: one encoding serves all watchers. Hence no generated servicer."""

    def __init__(self, store: Store, mirror: Mirror, feed: Feed) -> None:
        self._store = store
        self._mirror = mirror
        self._feed = feed

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer this service's calls at a server."""
        handlers: dict[str, Any] = {
            "ListEntries": grpc.unary_unary_rpc_method_handler(
                self.ListEntries, pb.ListEntriesRequest.FromString, pb.ListEntriesResponse.SerializeToString
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, pb.WatchRequest.FromString),
            "GetRevision": grpc.unary_unary_rpc_method_handler(
                self.GetRevision, pb.GetRevisionRequest.FromString, pb.GetRevisionResponse.SerializeToString
            ),
        }
        name = pb.DESCRIPTOR.services_by_name["WatchService"].full_name
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Any) -> pb.ListEntriesResponse:
        listing = _listing(filters.wanted(request.filter))
        page = await read_page(self._store, listing, request.page_size, request.page_token)
        return pb.ListEntriesResponse(
            entries=records.entries(page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
            store_id=page.store_id,
        )

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncGenerator[bytes]:
        if request.start_revision < 1:
            raise InvalidField("start_revision", "is less than 1, which is the first revision")
        wanted = filters.wanted(request.filter)
        self._feed.check_heard()
        store_id = await self._store.store_id()
        if request.store_id not in ("", store_id):
            raise RevisionGone("the revision belongs to another store: list again")
        async with aclosing(self._feed.watch(request.start_revision, store_id, wanted)) as responses:
            async for response in responses:
                yield response

    async def GetRevision(self, request: pb.GetRevisionRequest, context: Any) -> pb.GetRevisionResponse:
        revision, store_id = await self._mirror.head()
        return pb.GetRevisionResponse(revision=revision, store_id=store_id)


def _listing(wanted: Wanted) -> Listing:
    name = f"entries {wanted.digest}"
    return Listing(name, tuple(wanted.prefixes) or "", default_size=500, keep=wanted.row)
