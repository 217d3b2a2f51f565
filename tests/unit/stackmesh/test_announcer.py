"""An instance is registered while it lives, whatever happens to its stream."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from stackmesh.announcer import Announcer, announced
from stackmesh.registry.v1 import announce_service_pb2 as pb
from stackmesh.registry.v1.announce_service_pb2_grpc import (
    AnnounceServiceServicer,
    add_AnnounceServiceServicer_to_server,
)
from stackmesh.routes import Api
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel
from tests.waiting import until


class Registry(AnnounceServiceServicer):
    """Hears everything; may forget a lease, cut the stream or say nothing."""

    def __init__(self):
        self.heard = []
        self.ttl = 0.3
        self.cut = asyncio.Event()
        self.mute = False

    def of(self, kind):
        return [getattr(request, kind) for request in self.heard if request.HasField(kind)]

    async def Announce(self, requests, context):
        self.cut.clear()
        async for request in requests:
            self.heard.append(request)
            if self.cut.is_set():
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the lease has ended")
            if not self.mute:
                answer = pb.AnnounceResponse(lease_id=7, revision=1)
                answer.ttl.FromMilliseconds(int(self.ttl * 1000))
                yield answer

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
async def announcing(registry, reports):
    async with registry.serving() as address, internal_channel(address) as channel:
        async with announced(Announcer(channel, "i-1", "127.0.0.1:1", lambda: reports)) as announcer:
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
