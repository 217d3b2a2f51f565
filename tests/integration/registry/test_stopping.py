"""The registry as a whole: its health, its end."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry_service import server
from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import (
    InvalidField,
    MeshError,
    ShuttingDown,
)
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
    watch_service_pb2 as watch_pb,
)
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, Registry, config, read


async def test_health_names_every_service(registry):
    health = health_pb2_grpc.HealthStub(registry.channel)
    for name in ("", *server.SERVICES):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_streams_end_at_once_when_the_registry_stops(disk):
    channel = None
    async with asyncio.timeout(5):
        async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
            async with running(config(), SqliteStore(disk.path)) as listener:
                channel = internal_channel(listener.address)
                await instance.announce(channel)
                watch = WatchServiceStub(channel).Watch(watch_pb.WatchRequest(start_revision=1))
                assert (await watch.read()).revision == 1
            with pytest.raises(ShuttingDown):
                await read(watch)
            with pytest.raises(ShuttingDown):
                await read(instance.stream)
            await channel.close()


async def drain(watch, seen):
    while True:
        seen.append(await read(watch))


async def test_a_stream_that_is_stopped_in_the_middle_of_a_message_still_gets_its_status(disk):
    store, stop = SqliteStore(disk.path), asyncio.Event()
    address = asyncio.get_running_loop().create_future()

    async def run():
        async with running(config(), store) as listener:
            address.set_result(listener.address)
            await stop.wait()

    async with asyncio.timeout(8), background(run(), "registry") as registry:
        async with internal_channel(await address) as channel:
            value = pb.Model(identifier="m", provider_resource_id="x" * 1_000_000).SerializeToString()
            for n in range(20):
                await store.commit([Put(f"model/{n}", value)])
            watch = WatchServiceStub(channel).Watch(watch_pb.WatchRequest(start_revision=1))
            await watch.wait_for_connection()  # its window is full now: nobody reads
            stop.set()
            seen = []
            with pytest.raises(ShuttingDown):
                await drain(watch, seen)
            assert 0 < len(seen) < 20
            await registry


async def test_a_registry_without_its_disk_says_unavailable_and_inputs_are_still_checked(disk):
    store = SqliteStore(disk.path)
    async with running(config(), store) as listener, internal_channel(listener.address) as channel:
        registry = Registry(listener.address, channel)
        await store.__aexit__()
        with pytest.raises(MeshError) as raised:
            await registry.get("llama")
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(InvalidField):
            await registry.get("")
