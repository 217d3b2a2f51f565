"""AnnounceService: the instances' side. A lease outlives the stream, and the replica, that renews it."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from registry_service.instances import reports
from registry_service.instances.draft import Draft
from registry_service.instances.drafts import Drafts
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh.errors import Conflict, FailedPrecondition, InvalidField
from stackmesh.registry.v1 import announce_service_pb2 as pb, resources_pb2
from stackmesh.registry.v1.announce_service_pb2_grpc import AnnounceServiceServicer

log = logging.getLogger(__name__)


class Announce(AnnounceServiceServicer):
    def __init__(self, store: Store, mirror: Mirror, drafts: Drafts, lease_ttl: float) -> None:
        self._store = store
        self._mirror = mirror
        self._drafts = drafts
        self._ttl = lease_ttl

    async def Announce(
        self, request_iterator: AsyncIterator[pb.AnnounceRequest], context: Any
    ) -> AsyncGenerator[pb.AnnounceResponse]:
        instance_id, lease, since = "", 0, 0
        requests = aiter(request_iterator)
        while (request := await self._next(requests)) is not None:
            event = request.WhichOneof("event")
            if (event == "hello") != (not instance_id):
                raise InvalidField("hello", "is the first request of a stream, and only the first")
            match event:
                case "hello":
                    lease, revision = await self._hello(request.hello)
                    instance_id, since = request.hello.instance_id, revision
                case "served":
                    revision = await self._served(instance_id, lease, request.served)
                case "beat":
                    revision = await self._beat(instance_id, lease, since)
                case "leave":
                    revision = await self._leave(instance_id, lease)
                case _:
                    raise InvalidField("event", "is not set")
            yield self._answer(lease, revision)
            if event == "leave":
                return

    async def _next(self, requests: AsyncIterator[pb.AnnounceRequest]) -> pb.AnnounceRequest | None:
        """The next request; None at the end. Who is silent for so long has no lease any more."""
        try:
            async with asyncio.timeout(self._ttl):
                return await anext(requests, None)
        except TimeoutError:
            raise FailedPrecondition(f"nothing was heard for {self._ttl:g} s: say hello again") from None

    async def _hello(self, hello: pb.Hello) -> tuple[int, int]:
        reports.check_hello(hello)
        known = await self._mirror.current()
        reports.check_types(known, hello)  # who is refused does not live on by saying hello again and again
        before, lease = await self._lease(known, hello)
        instance = resources_pb2.Instance(
            instance_id=hello.instance_id, address=hello.address, lease_id=lease, started_at=hello.started_at
        )

        ended: list[int] = []

        def change(draft: Draft) -> None:
            row = draft.instance(hello.instance_id)
            if row is not None and row.lease_id != before:  # its hello to another replica was faster
                raise _forgotten(hello.instance_id)
            ended[:] = [before, *reports.take_over(draft, hello)]
            reports.write(draft, copy.deepcopy(instance), hello.providers)

        try:
            revision = await self._drafts.update(change)
        except (FailedPrecondition, Conflict):
            if lease != before:
                await self._store.revoke(lease)
            raise
        for old in ended:
            if old not in (0, lease):
                await self._store.revoke(old)
        log.info("%s is here: %s, %d providers", hello.instance_id, hello.address, len(hello.providers))
        return lease, revision

    async def _lease(self, known: Known, hello: pb.Hello) -> tuple[int, int]:
        """The lease the instance's row has, and the one it shall have: the same one if the instance knows it."""
        row = known.instance(hello.instance_id)
        before = row.lease_id if row is not None else 0
        if before and before == hello.lease_id and await self._store.keep_alive(before):
            return before, before
        return before, await self._store.grant(self._ttl)

    async def _served(self, instance_id: str, lease: int, report: pb.ServedReport) -> int:
        reports.check_report(report)
        if not await self._store.keep_alive(lease):
            raise _forgotten(instance_id)

        def change(draft: Draft) -> None:
            instance = draft.instance(instance_id)
            if instance is None or instance.lease_id != lease:
                raise _forgotten(instance_id)
            reports.write(draft, instance, [report])

        revision = await self._drafts.update(change)
        log.info("%s: %s serves %d", instance_id, report.provider_id, len(report.provider_resource_ids))
        return revision

    async def _beat(self, instance_id: str, lease: int, since: int) -> int:
        if not await self._store.keep_alive(lease) or self._is_elsewhere(instance_id, lease, since):
            raise _forgotten(instance_id)
        return 0

    def _is_elsewhere(self, instance_id: str, lease: int, since: int) -> bool:
        """Whether the instance's row is known not to be under its lease any more, since it was written.

        Another replica may have got a hello of it that was long on its way, and have died before it could end the lease
        that is beaten: the row would go, and the instance never hear of it. What is known may be old; that shows later.
        """
        known = self._mirror.known
        if known is None or known.revision < since:
            return False
        row = known.instance(instance_id)
        return row is None or row.lease_id != lease

    async def _leave(self, instance_id: str, lease: int) -> int:
        await self._store.revoke(lease)
        log.info("%s has left", instance_id)
        return await self._store.revision()

    def _answer(self, lease: int, revision: int) -> pb.AnnounceResponse:
        answer = pb.AnnounceResponse(lease_id=lease, revision=revision)
        answer.ttl.FromMilliseconds(round(self._ttl * 1000))
        return answer


def _forgotten(who: str) -> FailedPrecondition:
    return FailedPrecondition(f"the lease of {who} has ended: say hello again")
