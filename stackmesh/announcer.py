"""Keeps this instance in the registry: says hello, beats, tells what is served as it changes, says goodbye.

The lease belongs to the instance. When the stream breaks it says hello again at once, to whichever replica answers,
with the lease it has; when the registry has forgotten it, it gets a new one. While a lease is at stake no answer is
awaited for long: the registry may be away for half of the TTL just before a beat, and there is time for several tries.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from stackmesh.backoff import Backoff
from stackmesh.reasons import Reasons
from stackmesh.registry.v1 import announce_service_pb2 as pb
from stackmesh.registry.v1.announce_service_pb2_grpc import AnnounceServiceStub
from stackmesh.tasks import background

log = logging.getLogger(__name__)

_ANSWER_TIMEOUT: Final = 5.0
"""Seconds for an answer when there is nothing to lose: a busy registry is not asked twice."""
_TRIES_PER_TTL: Final = 10
"""While a lease is at stake an answer is awaited for this part of its TTL."""
_HASTY_TIMEOUT: Final = 0.25
"""But for so many seconds at least, and then it is tried again within as many."""
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
        self._news: dict[str, pb.ServedReport] = {}  # by provider: only its last word counts
        self._wake = asyncio.Event()  # there is something to say, or the stream has ended
        self._heard = asyncio.Event()  # everything told so far has been answered
        self._leaving = False
        self._registered = asyncio.Event()
        self._left = asyncio.Event()
        self._reasons = Reasons()
        self._lease_ends = 0.0  # time.monotonic(), by the last answer
        self._ttl = 0.0

    @property
    def registered(self) -> bool:
        """Whether the registry knows this instance, as far as it can tell."""
        return self._registered.is_set()

    async def wait_registered(self) -> None:
        """Wait until the registry has answered the hello. The caller sets the time limit."""
        await self._registered.wait()

    def tell(self, changed: Sequence[pb.ServedReport]) -> None:
        """What is served has changed; the registry hears of it next."""
        self._news.update({report.provider_id: report for report in changed})
        self._heard.clear()
        self._wake.set()

    async def heard(self) -> None:
        """Wait until the registry has answered everything that was told. The caller sets the time limit."""
        await self._heard.wait()

    async def run(self) -> None:
        """Stay registered until told to leave. Never fails: whatever goes wrong is tried again."""
        hasty, patient = Backoff(limit=_HASTY_TIMEOUT), Backoff(limit=2.0)
        while not self._left.is_set():
            try:
                await self._converse(hasty, patient)
            except grpc.aio.AioRpcError as error:
                self._lost(f"{error.code().name} {error.details()}")
            except (TimeoutError, asyncio.InvalidStateError) as error:
                self._lost(str(error) or "the registry did not answer")
            self._registered.clear()
            await asyncio.sleep(hasty.delay() if self._at_stake() else patient.delay())

    async def leave(self) -> None:
        """Say goodbye, so that nobody waits for the lease to end. Best effort."""
        if not self.registered and not self._at_stake():
            return  # there is nothing to be forgotten
        self._leaving = True
        self._wake.set()
        try:
            async with asyncio.timeout(_GOODBYE_TIMEOUT):
                await self._left.wait()
        except TimeoutError:
            log.info("left without a goodbye: the registry did not answer")

    async def _converse(self, *backoffs: Backoff) -> None:
        stream = self._stub.Announce()
        stream.add_done_callback(lambda _: self._wake.set())
        try:
            answer = await self._say_hello(stream)
            log.info("registered as %s at revision %d", self._hello.instance_id, answer.revision)
            self._registered.set()
            while not self._left.is_set():
                await self._say(stream, await self._next())
                self._reasons.forget()  # it held for more than a hello
                for backoff in backoffs:
                    backoff.reset()
        finally:
            stream.cancel()

    async def _say_hello(self, stream: Stream) -> pb.AnnounceResponse:
        self._news.clear()  # the hello says it all
        self._wake.clear()
        hello = pb.Hello()
        hello.CopyFrom(self._hello)
        hello.providers.extend(self._reports())
        answer = await self._say(stream, Request(hello=hello))
        self._hello.lease_id = answer.lease_id
        return answer

    async def _next(self) -> Request:
        """What to say next: goodbye, news, or only that we are alive, which also finds out why a stream has ended."""
        if not self._leaving:  # which may have been while there was no stream to say it on
            with suppress(TimeoutError):
                async with asyncio.timeout(self._ttl / _BEATS_PER_TTL):
                    await self._wake.wait()
        self._wake.clear()
        if self._leaving:
            return Request(leave=pb.Leave())
        if not self._news:
            return Request(beat=pb.Beat())
        provider_id = next(iter(self._news))
        report = self._news.pop(provider_id)
        if self._news:
            self._wake.set()
        return Request(served=report)

    async def _say(self, stream: Stream, request: Request) -> pb.AnnounceResponse:
        if stream.done():  # writing would fail without the reason
            raise TimeoutError(f"{(await stream.code()).name} {await stream.details()}")
        begun = time.monotonic()
        async with asyncio.timeout(self._patience()):
            await stream.write(request)
            answer = await stream.read()
        if not isinstance(answer, pb.AnnounceResponse):
            raise TimeoutError("the registry ended the stream")
        self._ttl = answer.ttl.ToMilliseconds() / 1000
        self._lease_ends = begun + self._ttl
        if not self._news:
            self._heard.set()
        if request.HasField("leave"):
            self._left.set()
        return answer

    def _patience(self) -> float:
        """Seconds to wait for an answer."""
        if not self._at_stake():
            return _ANSWER_TIMEOUT
        return min(_ANSWER_TIMEOUT, max(_HASTY_TIMEOUT, self._ttl / _TRIES_PER_TTL))

    def _at_stake(self) -> bool:
        """Whether there is a lease that may end unless the registry hears of us."""
        return time.monotonic() < self._lease_ends

    def _lost(self, why: str) -> None:
        """Say so once: an outage is a line in the log for each reason, not a line for each try."""
        level = logging.WARNING if self._reasons.new(why) else logging.DEBUG
        log.log(level, "not registered, trying again: %s", why)

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
