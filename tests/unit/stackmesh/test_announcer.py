"""An instance is registered while it lives, whatever happens to its stream."""

import asyncio
import logging
import time
from contextlib import asynccontextmanager

import grpc
import pytest

from stackmesh.announcer import Announcer, announced
from stackmesh.registry.v1 import announce_service_pb2 as pb
from stackmesh.registry.v1.announce_service_pb2_grpc import (
    AnnounceServiceServicer,
    AnnounceServiceStub,
    add_AnnounceServiceServicer_to_server,
)
from stackmesh.routes import Api
from stackmesh.server import listening
from stackmesh.tasks import background
from stackmesh.transport import INTERNAL_LISTENER, internal_channel, registry_channel
from tests.waiting import until


class Registry(AnnounceServiceServicer):
    """Hears everything; may forget a lease, cut or end the stream, say nothing, or lose what comes while it is away."""

    def __init__(self):
        self.heard = []
        self.ttl = 0.3
        self.cut = asyncio.Event()
        self.mute = False
        self.refused = ""
        self.cuts = False  # every stream, once its hello is answered
        self.away = False
        self.renewed = float("inf")
        self.longest = 0.0  # between two signs of life
        self._end = asyncio.Event()

    def renew(self):
        now = time.monotonic()
        self.longest = max(self.longest, now - self.renewed)
        self.renewed = now

    def end_streams(self):
        self._end.set()

    def of(self, kind):
        return [getattr(request, kind) for request in self.heard if request.HasField(kind)]

    async def Announce(self, requests, context):
        self.cut.clear()
        requests = aiter(requests)
        while (request := await self._next(requests)) is not None:
            if self.away:
                await asyncio.Event().wait()
            self.heard.append(request)
            self.renew()
            if self.cut.is_set() or self.refused:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refused or "the lease has ended")
            if not self.mute:
                answer = pb.AnnounceResponse(lease_id=7, revision=1)
                answer.ttl.FromMilliseconds(int(self.ttl * 1000))
                yield answer
            if self.cuts:
                return

    async def _next(self, requests):
        self._end.clear()
        following = asyncio.ensure_future(anext(requests, None))
        ending = asyncio.ensure_future(self._end.wait())
        try:
            await asyncio.wait([following, ending], return_when=asyncio.FIRST_COMPLETED)
            return None if self._end.is_set() else following.result()
        finally:
            following.cancel()
            ending.cancel()

    @asynccontextmanager
    async def serving(self, address="127.0.0.1:0"):
        def add(server):
            add_AnnounceServiceServicer_to_server(self, server)

        async with listening(address, options=INTERNAL_LISTENER, add_services=add, drain_seconds=0) as listener:
            yield listener.address


def report(*names):
    return pb.ServedReport(api=Api.API_INFERENCE, provider_id="p", provider_type="t", provider_resource_ids=names)


@pytest.fixture
async def registry():
    return Registry()


@asynccontextmanager
async def announcing(registry, reports, kind=Announcer):
    async with registry.serving() as address, internal_channel(address) as channel:
        async with announced(kind(channel, "i-1", "127.0.0.1:1", lambda: reports)) as announcer:
            async with asyncio.timeout(5):
                await announcer.wait_registered()
            yield announcer


async def test_says_who_it_is_and_beats(registry):
    async with announcing(registry, [report("a", "b")]):
        (hello,) = registry.of("hello")
        assert (hello.instance_id, hello.address, hello.lease_id) == ("i-1", "127.0.0.1:1", 0)
        assert list(hello.providers) == [report("a", "b")]
        await until(lambda: len(registry.of("beat")) >= 3)


async def test_tells_what_changed(registry):
    async with announcing(registry, [report("a")]) as announcer:
        announcer.tell([report("a", "c")])
        await until(lambda: registry.of("served"))
        assert registry.of("served") == [report("a", "c")]


async def test_says_goodbye(registry):
    async with announcing(registry, []):
        pass
    assert len(registry.of("leave")) == 1
    assert registry.heard[-1].HasField("leave")


async def test_keeps_its_lease_over_a_broken_stream(registry):
    async with announcing(registry, []) as announcer:
        registry.cut.set()
        await until(lambda: len(registry.of("hello")) >= 2)
        assert registry.of("hello")[-1].lease_id == 7
        async with asyncio.timeout(5):
            await announcer.wait_registered()


async def test_a_new_hello_says_everything_again(registry):
    reports = [report("a")]
    async with announcing(registry, reports) as announcer:
        reports[:] = [report("b")]
        registry.cut.set()
        announcer.tell(reports)
        await until(lambda: len(registry.of("hello")) >= 2)
        assert list(registry.of("hello")[-1].providers) == [report("b")]


async def test_leaving_a_mute_registry_does_not_hang(registry):
    async with announcing(registry, []):
        registry.mute = True


async def test_only_the_last_word_of_a_provider_waits_for_a_registry():
    async with internal_channel("127.0.0.1:1") as channel:
        announcer = Announcer(channel, "i-1", "127.0.0.1:1", list)
        for number in range(1000):
            announcer.tell([report(f"m-{number}")])
        assert list(announcer._news.values()) == [report("m-999")]


async def test_what_was_told_has_been_heard_when_it_was_answered():
    registry = Registry()
    async with announcing(registry, [report("a")]) as announcer:
        announcer.tell([report("a", "b")])
        async with asyncio.timeout(5):
            await announcer.heard()
        assert registry.of("served") == [report("a", "b")]
        registry.mute = True
        announcer.tell([report("a")])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await announcer.heard()


async def test_a_registry_that_ends_the_stream_is_told_hello_at_once_not_at_the_next_beat():
    registry = Registry()
    registry.ttl = 60
    async with announcing(registry, []):
        registry.end_streams()
        await until(lambda: len(registry.of("hello")) == 2, 2)
        assert registry.of("hello")[-1].lease_id == 7


async def test_the_log_says_once_why_the_registry_was_lost(caplog):
    registry = Registry()
    async with announcing(registry, []):
        registry.cut.set()
        await until(lambda: len(registry.of("hello")) >= 2)
    lost = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lost == ["not registered, trying again: FAILED_PRECONDITION the lease has ended"]


async def test_every_other_reason_is_said_too(caplog):
    registry = Registry()
    async with internal_channel("127.0.0.1:1") as nowhere:
        announcer = Announcer(nowhere, "i-1", "127.0.0.1:1", list)
        async with background(announcer.run(), "announcer"):
            await until(lambda: caplog.records)
        async with registry.serving() as address, internal_channel(address) as channel:
            announcer._stub = AnnounceServiceStub(channel)
            registry.refused = "the YAML says that p is another type"
            async with background(announcer.run(), "announcer"):
                await until(lambda: len(registry.of("hello")) >= 3)
    lost = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lost) == 2
    assert "Connection refused" in lost[0] or "failed to connect" in lost[0]
    assert lost[1] == "not registered, trying again: FAILED_PRECONDITION the YAML says that p is another type"


async def test_a_registry_that_breaks_after_every_hello_is_asked_ever_more_rarely():
    """A hello that was answered is no sign that it will last: the pauses go on growing, to 0.25 s."""
    registry = Registry()
    registry.ttl, registry.cuts = 60, True
    async with announcing(registry, []):
        with pytest.raises(TimeoutError):
            await until(lambda: len(registry.of("hello")) > 20, 2)


async def test_goodbye_is_said_though_the_stream_is_broken(registry):
    async with announcing(registry, []) as announcer:
        registry.cuts = True
        await until(lambda: not announcer.registered)
        registry.cuts = False
    assert registry.heard[-1].HasField("leave")


async def test_who_leaves_says_no_hello_after_its_goodbye(registry):
    class Breaks(Registry):
        """Every stream breaks at its first goodbye."""

        async def Announce(self, requests, context):
            async for answer in super().Announce(requests, context):
                if self.heard[-1].HasField("leave") and len(self.of("leave")) == 1:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")
                yield answer

    breaks = Breaks()
    async with announcing(breaks, []):
        pass
    assert [request.WhichOneof("event") for request in breaks.heard] == ["hello", "leave", "hello", "leave"]


async def test_a_replica_that_answers_no_more_is_left_for_another():
    first, second = Registry(), Registry()
    first.ttl = second.ttl = 3
    async with first.serving() as one, second.serving() as two, registry_channel(f"{one},{two}") as channel:
        async with announced(Announcer(channel, "i-1", "127.0.0.1:1", list)):
            await until(lambda: first.of("hello") or second.of("hello"))
            dead, alive = (first, second) if first.of("hello") else (second, first)
            dead.away = True
            await until(lambda: alive.of("beat"))
            assert alive.of("hello")[-1].lease_id == 7


# An outage that begins just before a beat: 5 s without a word, and then 7 s of the TTL's 15 s

TTL = 6.0
OUTAGE = TTL * 12 / 15


async def check_keeps_its_place(kind=Announcer):
    registry = Registry()
    registry.ttl = TTL
    async with announcing(registry, [], kind):
        registry.away = True
        asyncio.get_running_loop().call_later(OUTAGE, setattr, registry, "away", False)
        said = len(registry.heard)
        await until(lambda: len(registry.heard) > said, 4 * TTL)
        assert OUTAGE < registry.longest < TTL


async def test_an_outage_of_seven_seconds_costs_no_place():
    await check_keeps_its_place()


class Patient(Announcer):
    """The planted bug: an answer is awaited as long as ever, whatever is at stake."""

    def _patience(self):
        return 5.0


async def test_the_check_of_outages_sees_an_announcer_that_waits_too_long():
    with pytest.raises(AssertionError):
        await check_keeps_its_place(Patient)
