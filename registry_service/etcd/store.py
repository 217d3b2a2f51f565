"""A store in an etcd cluster, for any number of registry processes."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final, Self

from registry_service.etcd import wire
from registry_service.etcd.client import LIMIT, Client
from registry_service.etcd.errors import AnswerTooLarge, Refused, silent
from registry_service.etcd.identity import Identity
from registry_service.etcd.layout import Layout
from registry_service.etcd.leases import KeepAlives
from registry_service.etcd.url import Location
from registry_service.etcd.watch import Watch
from registry_service.store import Commit, Op, Page, Put, Row, check
from stackmesh.errors import Conflict, MeshError, RevisionGone, StoreFull
from stackmesh.etcd.v1 import etcd_pb2 as pb
from stackmesh.process import StartError
from stackmesh.tasks import background

log = logging.getLogger(__name__)

SILENCE: Final = 3.0
"""Seconds without a word after which a watch asks whether etcd lives."""


class EtcdStore:
    """Implements Store. Opening it raises StartError for a user who is not let in and for files that cannot be read."""

    def __init__(self, location: Location, *, limit: float = LIMIT, silence: float = SILENCE) -> None:
        """A call takes at most `limit` seconds; a watch speaks after `silence` of them."""
        self._location = location
        self._layout = Layout(location.prefix)
        self._silence = silence
        self._client = Client(location, limit=limit)
        self._identity = Identity(self._client, self._layout)
        self._keep_alives = KeepAlives(self._client)
        self._at_once = sys.maxsize  # rows that come in one answer, as far as is known
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._location.password and not self._location.tls:
            log.warning("the password for etcd goes over the network unencrypted: add ?tls=system or ?tls=FILE")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            await stack.enter_async_context(background(self._keep_alives.run(), "keep-alives"))
            await self._try()
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    async def store_id(self) -> str:
        async with self._in_time():
            return await self._identity.get()

    async def revision(self) -> int:
        return _revision(await self._read(self._layout.head))

    async def get(self, key: str) -> Row | None:
        answer = await self._read(self._layout.key(key))
        return self._layout.row(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, after: str = "", limit: int = 500, revision: int | None = None) -> Page:
        if revision is not None and revision <= 0:
            raise RevisionGone(f"there is no revision {revision}")
        first = max(self._layout.key(prefix), self._layout.key(after) + b"\0" if after else b"")
        answer = await self._range(first, wire.end_of(self._layout.key(prefix)), limit, revision or 0)
        rows = tuple(map(self._layout.row, answer.kvs))
        return Page(rows=rows, revision=revision or answer.header.revision, more=answer.more)

    async def commit(self, ops: Sequence[Op], *, expect: Mapping[str, int] | None = None) -> int:
        expect = expect or {}
        check(ops, expect)
        async with self._in_time():
            changes = any(isinstance(op, Put) or expect.get(op.key) for op in ops)
            conditions = [wire.written_at(self._layout.key(key), revision) for key, revision in expect.items()]
            while True:
                certain: list[pb.Compare] = []
                if not changes:
                    found, revision = await self._existing(ops, conditions)
                    if found is None:
                        return revision
                    certain = [wire.exists(found)]
                done = [*map(self._op, ops), self._head()]
                answer = await self._txn([*conditions, *certain], done, repeatable=False)
                if answer.succeeded:
                    return answer.header.revision
                if changes:
                    raise _conflict()

    def watch(self, start_revision: int) -> AsyncGenerator[Commit]:
        return Watch(self._client, self._layout, self._identity, start_revision, self._silence).commits()

    async def compact(self, revision: int) -> None:
        async with self._in_time():
            if revision <= 0:
                return
            try:
                await self._client.call(wire.COMPACT, pb.CompactionRequest(revision=revision), repeatable=True)
            except RevisionGone:
                if revision > await self._now():
                    raise

    async def grant(self, ttl: float) -> int:
        request = pb.LeaseGrantRequest(ttl=math.ceil(ttl))
        # Repeatable: a lease that nobody knows ends by itself.
        return (await self._client.call(wire.GRANT, request, repeatable=True)).id

    async def keep_alive(self, lease: int) -> bool:
        return await self._keep_alives.send(lease) > 0

    async def revoke(self, lease: int) -> None:
        async with self._in_time():
            before = await self.revision()
            question = pb.LeaseTimeToLiveRequest(id=lease, keys=True)
            keys = (await self._client.call(wire.TIME_TO_LIVE, question, repeatable=True)).keys
            with suppress(Conflict):  # it has ended
                await self._client.call(wire.REVOKE, pb.LeaseRevokeRequest(id=lease), repeatable=True)
            if keys or await self.revision() != before:  # or something may have been put with it since
                with suppress(StoreFull):  # then it is as if the lease had ended by itself, which makes no head either
                    await self._txn([], [self._head()], repeatable=True)

    @asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None]:
        """Ends what takes several calls. A little later than a single call ends by itself, which says more."""
        try:
            async with asyncio.timeout(1.1 * self._client.limit):
                yield
        except TimeoutError:
            raise silent(self._client.current().address) from None

    async def _try(self) -> None:
        """Notice at once what somebody has to change first. An etcd that is away may come back by itself."""
        try:
            await self.store_id()
            # etcd looks at the rights to write before the conditions, and these two are never both true.
            layout = self._layout
            never = [wire.written_at(layout.id, 0), wire.exists(layout.id)]
            writes = [wire.put(key, b"") for key in (layout.id, layout.head, layout.key(""))]
            await self._txn(never, writes, repeatable=True)
        except Refused as error:
            raise StartError(error.message) from None
        except MeshError as error:
            log.warning("%s", error)

    async def _now(self) -> int:
        """The revision of the whole etcd."""
        return (await self._read(self._layout.head)).header.revision

    async def _existing(self, ops: Sequence[Op], conditions: Sequence[pb.Compare]) -> tuple[bytes | None, int]:
        """One of the keys of `ops` that is there, or None, and the current revision. Raises Conflict."""
        wanted = [wire.read(self._layout.key(op.key), keys_only=True) for op in ops]
        answer = await self._txn(conditions, [*wanted, wire.read(self._layout.head)], repeatable=True)
        if not answer.succeeded:
            raise _conflict()
        *found, head = [each.response_range for each in answer.responses]
        return next((each.kvs[0].key for each in found if each.kvs), None), _revision(head)

    async def _range(self, first: bytes, end: bytes, limit: int, revision: int) -> pb.RangeResponse:
        """As many of the keys as come at once."""
        while True:
            limit = min(limit, self._at_once)
            request = pb.RangeRequest(key=first, range_end=end, limit=limit, revision=revision)
            try:
                return await self._client.call(wire.RANGE, request, repeatable=True)
            except AnswerTooLarge:
                if limit == 1:
                    raise
                # For good: etcd reads and sends the whole answer before it turns out to be too large.
                self._at_once = limit // 4 or 1

    async def _read(self, key: bytes) -> pb.RangeResponse:
        return await self._client.call(wire.RANGE, pb.RangeRequest(key=key), repeatable=True)

    async def _txn(
        self, conditions: Sequence[pb.Compare], ops: Sequence[pb.RequestOp], *, repeatable: bool
    ) -> pb.TxnResponse:
        """Does nothing unless all conditions hold."""
        request = pb.TxnRequest(compare=conditions, success=ops)
        return await self._client.call(wire.TXN, request, repeatable=repeatable)

    def _head(self) -> pb.RequestOp:
        """The mark of a commit, which no other bears."""
        return wire.put(self._layout.head, secrets.token_bytes(8))

    def _op(self, op: Op) -> pb.RequestOp:
        key = self._layout.key(op.key)
        return wire.put(key, op.value, op.lease) if isinstance(op, Put) else wire.delete(key)

    def __repr__(self) -> str:
        return f"<EtcdStore {self._location} {self._client.endpoints!r}>"


def _revision(answer: pb.RangeResponse) -> int:
    """That last wrote the key that was read; 0 if there is none."""
    return answer.kvs[0].mod_revision if answer.kvs else 0


def _conflict() -> Conflict:
    return Conflict("another change came first")
