"""A small real WatchService over a log in memory, whose streams can be cut, silenced, compacted and turned back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import grpc

from stackmesh.errors import RevisionGone
from stackmesh.interceptors import Errors
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceServicer, add_WatchServiceServicer_to_server
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER


class WatchServer(WatchServiceServicer):
    """`put` and `delete` make revisions; `cut_after` ends each watch after that many responses."""

    def __init__(self) -> None:
        self.log: list[pb.Change] = []
        self.compacted = 0
        self.store_id = "one"
        self.cut_after: int | None = None
        self.silent = False
        self.page_size = 3  # small, so that there are several
        self.lost_pages = 0  # so many second pages are of a revision that is gone
        self.checkpoint_seconds = 5.0
        self.lists = 0
        self.watches: list[int] = []  # the start revision of each
        self._moved = asyncio.Event()

    @property
    def revision(self) -> int:
        return len(self.log)

    def put(self, name: str, provider: str = "p") -> int:
        model = resources_pb2.Model(identifier=name, provider_id=provider, provider_resource_id=name)
        return self._write(pb.Entry(key=f"model/{name}", model=model))

    def delete(self, name: str) -> int:
        return self._write(pb.Entry(key=f"model/{name}"))

    def _write(self, entry: pb.Entry) -> int:
        self.log.append(pb.Change(entry=entry, revision=self.revision + 1))
        self._moved.set()
        return self.revision

    def turn_back(self, revision: int) -> None:
        """As a store is after an older copy of it was put back."""
        del self.log[revision:]
        self._moved.set()

    def entries(self) -> dict[str, pb.Entry]:
        found: dict[str, pb.Entry] = {}
        for change in self.log:
            found[change.entry.key] = change.entry
        return {key: entry for key, entry in sorted(found.items()) if entry.WhichOneof("value")}

    async def ListEntries(self, request, context):
        self.lists += request.page_token == ""
        after = request.page_token
        if after and self.lost_pages:
            self.lost_pages -= 1
            raise RevisionGone("the revision of the page before is gone")
        rest = [entry for key, entry in self.entries().items() if key > after]
        page = rest[: min(request.page_size, self.page_size)]
        token = page[-1].key if len(rest) > len(page) else ""
        return pb.ListEntriesResponse(
            entries=page, next_page_token=token, revision=self.revision, store_id=self.store_id
        )

    async def Watch(self, request, context):
        self.watches.append(request.start_revision)
        gone = request.start_revision <= self.compacted or request.start_revision > self.revision + 1
        if gone or request.store_id not in {"", self.store_id}:
            raise RevisionGone(f"revision {request.start_revision} is gone")
        at, sent = request.start_revision, 0
        while True:
            self._moved.clear()
            if at > self.revision + 1:  # turned back
                yield pb.WatchResponse(revision=self.revision)
            while at <= self.revision and not self.silent:
                if self.cut_after is not None and sent >= self.cut_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
                yield pb.WatchResponse(revision=at, changes=[self.log[at - 1]])
                at, sent = at + 1, sent + 1
            if not self.silent and sent == 0:
                yield pb.WatchResponse(revision=at - 1)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.checkpoint_seconds):
                    await self._moved.wait()
                continue
            if not self.silent:
                yield pb.WatchResponse(revision=at - 1)

    async def GetRevision(self, request, context):
        return pb.GetRevisionResponse(revision=self.revision, store_id=self.store_id)

    @asynccontextmanager
    async def serving(self, address: str = "127.0.0.1:0"):
        def add(server):
            add_WatchServiceServicer_to_server(self, server)

        async with listening(
            address, options=INTERNAL_LISTENER, add_services=add, interceptors=[Errors()], drain_seconds=0
        ) as listener:
            yield listener.address
