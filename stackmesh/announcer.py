"""Keeps this instance in the registry: says hello, beats, tells what is served as it changes, says goodbye.

The lease belongs to the instance. When the stream breaks it says hello again, to whichever replica answers, with the
lease it has; when the registry has forgotten it, it gets a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from stackmesh.backoff import Backoff
from stackmesh.registry.v1 import announce_service_pb2 as pb
from stackmesh.registry.v1.announce_service_pb2_grpc import AnnounceServiceStub
from stackmesh.tasks import background

log = logging.getLogger(__name__)

_ANSWER_TIMEOUT: Final = 5.0
_GOODBYE_TIMEOUT: Final = 2.0
_BEATS_PER_TTL: Final = 3

Request = pb.AnnounceRequest
Stream = grpc.aio.StreamStreamCall[pb.AnnounceRequest, pb.AnnounceResponse]
Reports = Callable[[], Sequence[pb.ServedReport]]


class Announcer:
    """One instance's voice. `reports` gives everything it serves, whenever it says hello."""

    def __init__(self, channel: grpc.aio.Channel, instance_id: str, address: str, reports: Reports) -> None:
        self._stub = AnnounceServiceStub(channel)
        self._hello = pb.Hello(instance_id=instance_id, address=address, started_at=_now())
        self._reports = reports
        self._next: asyncio.Queue[Request] = asyncio.Queue()  # bounded by how often providers are asked
        self._registered = asyncio.Event()
        self._left = asyncio.Event()

    @property
    def registered(self) -> bool:
        """Whether the registry knows this instance, as far as it can tell."""
        return self._registered.is_set()

    async def wait_registered(self) -> None:
        """Wait until the registry has answered the hello. The caller sets the time limit."""
        await self._registered.wait()

    def tell(self, changed: Sequence[pb.ServedReport]) -> None:
        """What is served has changed; the registry hears of it next."""
        for report in changed:
            self._next.put_nowait(Request(served=report))

    async def run(self) -> None:
        """Stay registered until told to leave. Never fails: whatever goes wrong is tried again."""
        backoff = Backoff(limit=2.0)
        while not self._left.is_set():
            try:
                await self._converse(backoff)
            except grpc.aio.AioRpcError as error:
                log.warning("not registered, trying again: %s %s", error.code().name, error.details())
            except (TimeoutError, asyncio.InvalidStateError) as error:
                log.warning("not registered, trying again: %s", error or "the registry did not answer")
            self._registered.clear()
            await asyncio.sleep(backoff.delay())

    async def leave(self) -> None:
        """Say goodbye, so that nobody waits for the lease to end. Best effort."""
        if not self.registered:
            return
        self._next.put_nowait(Request(leave=pb.Leave()))
        try:
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                await self._left.wait()
        except TimeoutError:
            log.info("left without a goodbye: the registry did not answer")

    async def _converse(self, backoff: Backoff) -> None:
        stream = self._stub.Announce()
        try:
            answer = await self._say_hello(stream)
            beat = answer.ttl.ToMilliseconds() / 1000 / _BEATS_PER_TTL
            log.info("registered as %s at revision %d", self._hello.instance_id, answer.revision)
            self._registered.set()
            backoff.reset()
            while not self._left.is_set():
                request = await self._next_or_beat(beat)
                await self._say(stream, request)
                if request.HasField("leave"):
                    self._left.set()
        finally:
            stream.cancel()

    async def _say_hello(self, stream: Stream) -> pb.AnnounceResponse:
        while not self._next.empty():
            self._next.get_nowait()  # the hello says it all
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        hello.providers.extend(self._reports())
        answer = await self._say(stream, Request(hello=hello))
        self._hello.lease_id = answer.lease_id
        return answer

    async def _next_or_beat(self, beat: float) -> Request:
        try:
            async with asyncio.timeout(beat):
                return await self._next.get()
        except TimeoutError:
            return Request(beat=pb.Beat())

    async def _say(self, stream: Stream, request: Request) -> pb.AnnounceResponse:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            await stream.write(request)
            answer = await stream.read()
        if not isinstance(answer, pb.AnnounceResponse):
            raise TimeoutError("the registry ended the stream")
        return answer

    def __repr__(self) -> str:
        state = "registered" if self.registered else "not registered"
        return f"<Announcer {self._hello.instance_id} [{state}, lease {self._hello.lease_id}]>"


def _now() -> Timestamp:
    now = Timestamp()
    now.GetCurrentTime()
    return now


@asynccontextmanager
async def announced(announcer: Announcer) -> AsyncGenerator[Announcer]:
    """Registered while the body runs; forgotten right after it."""
    async with background(announcer.run(), "announcer"):
        try:
            yield announcer
        finally:
            await announcer.leave()
