"""10,000 models and 1,000 instances, as a client sees them that has nothing but gRPC's default limits.

Much of it is as large as it may be: what has no bound in bytes exceeds 4 MiB at the largest page.
"""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

import gateway.server
import registry_service.server
from registry_service import records
from registry_service.sqlite.store import SqliteStore
from registry_service.store import COMMIT_LIMIT, Put
from stackmesh.config import parse
from stackmesh.inspect.v1 import inspect_service_pb2
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub
from stackmesh.registry.v1 import (
    instances_service_pb2,
    models_service_pb2,
    providers_service_pb2,
    resources_pb2 as pb,
    watch_service_pb2,
)
from stackmesh.registry.v1.instances_service_pb2_grpc import InstancesServiceStub
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceStub
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.routes import Api
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel
from tests.ports import free_port
from tests.scale import full

pytestmark = pytest.mark.timeout(180)

MODELS, INSTANCES, PROVIDERS = 10_000, 1_000, 100
EVERYWHERE = full(MODELS // 2)
"""So many models are of the provider that all instances host; the others are dealt out to the other providers."""
LIMIT = 60.0
PAGE = 1_000
"""The largest there is."""


def provider_id(number):
    return f"p{number:03}"


def provider(number):
    """Some have as many names as one report may bring."""
    served = ["m", *(f"{'x' * 200}-{n:05}" for n in range(4_300 if 1 <= number <= 5 else 0))]
    return pb.Provider(
        api=Api.API_INFERENCE,
        provider_id=provider_id(number),
        provider_type="inline::x",
        position=number,
        served=served,
    )


def instance(number, lease):
    """All host the first provider and one other. Of some the first provider's backend has failed in many ways."""
    hosted = [
        pb.HostedProvider(api=Api.API_INFERENCE, provider_id=provider_id(which))
        for which in (0, 1 + number % (PROVIDERS - 1))
    ]
    for n in range(100 if number < 150 else 0):
        hosted[0].failures.add(provider_resource_id=f"lost-{n}", reason="x" * 280)
    address = f"127.1.{number // 250}.{number % 250 + 1}:65000"
    return pb.Instance(instance_id=f"i{number:04}", address=address, providers=hosted, lease_id=lease)


def model(number):
    """The first ones have metadata of more than 4 KB."""
    of = 0 if number < EVERYWHERE else 1 + number % (PROVIDERS - 1)
    row = pb.Model(
        identifier=f"m{number:05}", provider_id=provider_id(of), provider_resource_id="m", source=pb.SOURCE_USER
    )
    row.metadata["note"] = "x" * (4_400 if number < PAGE else 10)
    return row


class Hurried(SqliteStore):
    """Waits for no disk."""

    def _open(self, lock):
        log = super()._open(lock)
        log._db.execute("PRAGMA synchronous = OFF")
        return log


async def seed(path):
    """In commits that a registry would write: of so many changes, and so many bytes."""
    async with Hurried(path) as store:
        lease = await store.grant(7200)
        for start in range(0, MODELS, COMMIT_LIMIT):
            await write(store, map(model, range(start, start + COMMIT_LIMIT)))
        for start in range(0, INSTANCES, COMMIT_LIMIT):
            await write(store, [instance(number, lease) for number in range(start, start + COMMIT_LIMIT)], lease)
        for number in range(PROVIDERS):  # last: finding a place beside a row of 1 MB takes SQLite a millisecond
            await write(store, [provider(number)])


async def write(store, rows, lease=0):
    await store.commit([Put(records.key_of(row), records.encode(row), lease) for row in rows])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The file of a full registry."""
    path = tmp_path_factory.mktemp("large") / "registry.db"
    asyncio.run(seed(path))
    return path


@dataclass(frozen=True)
class Listed:
    """A list: who answers it, and how many there are."""

    stub: Any
    method: str
    request: Any
    field: str
    count: int

    async def pages(self, channel):
        token, found = "", []
        while not found or token:
            request = self.request(page_size=PAGE, page_token=token)
            found.append(await getattr(self.stub(channel), self.method)(request, timeout=LIMIT))
            token = found[-1].next_page_token
        return found

    def of(self, page):
        return getattr(page, self.field)


OF_THE_REGISTRY = {
    "models": Listed(ModelsServiceStub, "ListModels", models_service_pb2.ListModelsRequest, "models", MODELS),
    "instances": Listed(
        InstancesServiceStub, "ListInstances", instances_service_pb2.ListInstancesRequest, "instances", INSTANCES
    ),
    "providers": Listed(
        ProvidersServiceStub, "ListProviders", providers_service_pb2.ListProvidersRequest, "providers", PROVIDERS
    ),
    "entries": Listed(
        WatchServiceStub,
        "ListEntries",
        watch_service_pb2.ListEntriesRequest,
        "entries",
        MODELS + INSTANCES + PROVIDERS,
    ),
}
OF_INSPECT = {
    "routes": Listed(InspectServiceStub, "ListRoutes", inspect_service_pb2.ListRoutesRequest, "routes", MODELS),
    "hosts": Listed(
        InspectServiceStub, "ListProviders", inspect_service_pb2.ListProvidersRequest, "providers", PROVIDERS
    ),
}
LISTS = OF_THE_REGISTRY | OF_INSPECT


@asynccontextmanager
async def mesh(path):
    """The addresses of a registry on that file, and of a gateway that knows what is in it."""
    text = (
        f"version: 1\nregistry: {{address: '127.0.0.1:{free_port()}'}}\n"
        "gateway: {address: '127.0.0.1:0', snapshot_file: null}\n"
    )
    config = parse(text, {}, "the mesh under test")
    async with registry_service.server.running(config, SqliteStore(path)) as registry:
        async with gateway.server.running(config) as front:
            async with asyncio.timeout(LIMIT):
                await front.told()
            yield registry.address, front.address


async def whole(which, address):
    """A client of gRPC's defaults gets all of a list, in pages of which some had to end early."""
    listed = LISTS[which]
    async with grpc.aio.insecure_channel(address) as channel:
        pages = await listed.pages(channel)
    entries = [entry for page in pages for entry in listed.of(page)]
    assert len(entries) == listed.count
    assert len({entry.SerializeToString() for entry in entries}) == listed.count
    assert len(pages) > -(-listed.count // PAGE)
    return entries


async def test_every_list_comes_in_messages_of_the_default_size(store):
    async with mesh(store) as (registry, front):
        for which in OF_THE_REGISTRY:
            await whole(which, registry)
        routes = await whole("routes", front)
        assert [len(route.addresses) for route in routes[:EVERYWHERE]] == [INSTANCES] * EVERYWHERE
        assert {len(route.addresses) for route in routes[EVERYWHERE:]} <= {10, 11}
        hosts = await whole("hosts", front)
        assert len(hosts[0].instances) == INSTANCES


async def test_a_watch_from_the_start_comes_in_messages_of_the_default_size(store):
    async with mesh(store) as (registry, _), grpc.aio.insecure_channel(registry) as channel:
        stub = WatchServiceStub(channel)
        listed = await stub.ListEntries(watch_service_pb2.ListEntriesRequest(page_size=1))
        seen = {}
        async for response in stub.Watch(watch_service_pb2.WatchRequest(start_revision=1), timeout=LIMIT):
            seen.update({change.entry.key: change.revision for change in response.changes})
            if response.revision >= listed.revision:
                break
        assert len(seen) == MODELS + INSTANCES + PROVIDERS


@asynccontextmanager
async def by_count_alone(which, address):
    """Answers one list as `address` does, but puts pages together until there are as many entries as were asked for."""
    listed = LISTS[which]

    async def answer(request, context):
        async with internal_channel(address) as channel:
            method = getattr(listed.stub(channel), listed.method)
            page = await method(request)
            while page.next_page_token and (left := request.page_size - len(listed.of(page))):
                more = await method(listed.request(page_size=left, page_token=page.next_page_token))
                page.MergeFrom(more)
                page.next_page_token = more.next_page_token
        return page

    def add(server):
        service = listed.request.DESCRIPTOR.file.services_by_name
        [name] = [each.full_name for each in service.values() if listed.method in each.methods_by_name]
        handler = grpc.unary_unary_rpc_method_handler(
            answer, listed.request.FromString, lambda page: page.SerializeToString()
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {listed.method: handler}),))

    async with listening("127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add) as listener:
        yield listener.address


async def test_that_check_finds_pages_that_end_by_count_alone(store):
    async with mesh(store) as (registry, front):
        for which in LISTS:
            async with by_count_alone(which, front if which in OF_INSPECT else registry) as address:
                with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as raised:
                    await whole(which, address)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
