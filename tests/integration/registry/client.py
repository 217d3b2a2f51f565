"""A client of a running registry, and what a registry leaves on its disk."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import grpc
from google.protobuf.struct_pb2 import Struct

from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from stackmesh.config import parse
from stackmesh.errors import ResourceNotFound, from_rpc_error
from stackmesh.registry.v1 import (
    agents_service_pb2,
    agents_service_pb2_grpc,
    memory_banks_service_pb2,
    memory_banks_service_pb2_grpc,
    models_service_pb2,
    models_service_pb2_grpc,
    providers_service_pb2 as providers_pb,
    resources_pb2 as pb,
    shields_service_pb2,
    shields_service_pb2_grpc,
    watch_service_pb2 as watch_pb,
)
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceStub
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.resources import KINDS
from stackmesh.routes import Api, ResourceType
from stackmesh.transport import internal_channel
from tests.fakes import instance as fakes

LIMIT = 10.0
LLAMA = {"llama": "llama-8b", "llama-8b": "llama-8b", "meta/llama": "llama-8b"}
MODEL, SHIELD, MEMORY_BANK, AGENT = (KINDS[which] for which in sorted(KINDS))
assert MODEL.resource_type == ResourceType.RESOURCE_TYPE_MODEL

_SERVICES = {
    MODEL: (models_service_pb2, models_service_pb2_grpc),
    SHIELD: (shields_service_pb2, shields_service_pb2_grpc),
    MEMORY_BANK: (memory_banks_service_pb2, memory_banks_service_pb2_grpc),
    AGENT: (agents_service_pb2, agents_service_pb2_grpc),
}


async def call(method, request):
    """The answer; a failure as the exception it was in the registry."""
    try:
        return await method(request, timeout=LIMIT)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


class Names:
    """The service of one type of resource."""

    def __init__(self, kind, channel):
        self.kind = kind
        self._messages, stubs = _SERVICES[kind]
        self._one, self._many = (word.title().replace("_", "") for word in (kind.word, kind.plural))
        self.stub = getattr(stubs, f"{self._many}ServiceStub")(channel)

    async def register(self, name, **fields):
        return self._row(await self._call("Register", self._one, self._named(name, fields)))

    async def get(self, name):
        return self._row(await self._call("Get", self._one, self._named(name, {})))

    async def update(self, name, **fields):
        return self._row(await self._call("Update", self._one, self._named(name, fields)))

    async def unregister(self, name, **fields):
        return (await self._call("Unregister", self._one, self._named(name, fields))).revision

    async def list(self, **fields):
        return await self._call("List", self._many, fields)

    async def names(self):
        return [row.identifier for row in getattr(await self.list(), self.kind.plural)]

    def _row(self, response):
        return getattr(response, self.kind.word)

    def _named(self, name, fields):
        """The fields of a request, with a Struct for a dict where the proto has one."""
        given = {f"{self.kind.word}_id": name, **fields}
        payload = given.get(self.kind.payload)
        if isinstance(payload, dict) and self.kind is not MEMORY_BANK:
            given[self.kind.payload] = Struct()
            given[self.kind.payload].update(payload)
        return given

    async def _call(self, verb, what, fields):
        request = getattr(self._messages, f"{verb}{what}Request")(**fields)
        return await call(getattr(self.stub, f"{verb}{what}"), request)


class Registry:
    """A client of a running registry. What names no type is about models."""

    def __init__(self, address, channel):
        self.address = address
        self.channel = channel
        self.all = {kind: Names(kind, channel) for kind in KINDS.values()}
        self.models, self.shields, self.memory_banks, self.agents = (
            self.all[kind] for kind in (MODEL, SHIELD, MEMORY_BANK, AGENT)
        )
        self.register, self.get, self.update, self.unregister, self.list = (
            getattr(self.models, verb) for verb in ("register", "get", "update", "unregister", "list")
        )
        self.providers = ProvidersServiceStub(channel)
        self.watches = WatchServiceStub(channel)

    async def state(self, name, kind=MODEL):
        try:
            return (await self.all[kind].get(name)).serving_state
        except ResourceNotFound:
            return None

    async def serving(self, name, kind=MODEL):
        return await self.state(name, kind) == pb.SERVING_STATE_SERVING

    async def provider(self, provider_id, api=Api.API_INFERENCE):
        request = providers_pb.GetProviderRequest(api=api, provider_id=provider_id)
        return (await call(self.providers.GetProvider, request)).provider

    async def entries(self, **fields):
        return await call(self.watches.ListEntries, watch_pb.ListEntriesRequest(**fields))

    async def instances(self):
        return {e.instance.instance_id: e.instance for e in (await self.entries()).entries if e.HasField("instance")}

    async def revision(self):
        return (await call(self.watches.GetRevision, watch_pb.GetRevisionRequest())).revision

    @asynccontextmanager
    async def watch(self, start_revision, store_id=""):
        stream = self.watches.Watch(watch_pb.WatchRequest(start_revision=start_revision, store_id=store_id))
        try:
            yield stream
        finally:
            stream.cancel()

    @asynccontextmanager
    async def instance(self, providers, instance_id=None):
        async with fakes.running(providers, self.address, instance_id) as instance:
            yield instance


@asynccontextmanager
async def registry_on(store, text="", **registry):
    """A registry on a store, and a client of it. Settings of its own come by name."""
    async with running(config(text, **registry), store) as listener, internal_channel(listener.address) as channel:
        yield Registry(listener.address, channel)


def config(text="", **registry):
    own = json.dumps({"address": "127.0.0.1:0", **registry})
    return parse(f"version: 1\nregistry: {own}\n{text}", {}, "test.yaml")


def yaml(*providers, models=()):
    """Providers of inference, and models."""
    lines = ["providers:", "  inference:"]
    lines += [f"  - {{provider_id: {p}, provider_type: 'inline::fake'}}" for p in providers]
    lines += ["models:", *(f"- {{{m}}}" for m in models)] if models else []
    return "\n".join(lines)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Disk:
    """What survives a registry, and the clock its leases live by."""

    def __init__(self, folder):
        self.path = folder / "registry.db"
        self.clock = Clock()

    @asynccontextmanager
    async def registry(self, text=""):
        store = SqliteStore(self.path, clock=self.clock, checkpoint_seconds=0.05, sweep_seconds=0.01)
        async with registry_on(store, text) as registry:
            yield registry


async def read(stream):
    """The next message of a stream; a failure as the exception it was in the registry."""
    async with asyncio.timeout(LIMIT):
        try:
            return await stream.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None
