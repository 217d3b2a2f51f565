"""An instance that hosts whatever a test says: a real ProviderService, and a real Announce stream to a registry."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from stackmesh.errors import MeshError, NotHosted
from stackmesh.interceptors import Errors
from stackmesh.provider.v1 import provider_service_pb2, provider_service_pb2_grpc
from stackmesh.registry.v1 import announce_service_pb2 as pb
from stackmesh.registry.v1.announce_service_pb2_grpc import AnnounceServiceStub
from stackmesh.routes import Api
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel

LIMIT = 10.0


class FakeProvider:
    """Hosts the names in `aliases`, each as what it maps to. `fails` is raised instead, `hangs` never answers."""

    def __init__(self, aliases: Mapping[str, str], provider_type: str = "inline::fake", api: Any = Api.API_INFERENCE):
        self.aliases = dict(aliases)
        self.provider_type = provider_type
        self.api = api
        self.fails: MeshError | None = None
        self.hangs = False
        self.asked: list[str] = []
        self.requests: list[Any] = []

    def report(self, provider_id: str, problem: str = "") -> pb.ServedReport:
        return pb.ServedReport(
            api=self.api,
            provider_id=provider_id,
            provider_type=self.provider_type,
            provider_resource_ids=sorted(set(self.aliases.values())),
            problem=problem,
        )


class FakeInstance(provider_service_pb2_grpc.ProviderServiceServicer):
    """Use `running`."""

    def __init__(self, address: str, providers: Mapping[str, FakeProvider], instance_id: str) -> None:
        self.address = address
        self.instance_id = instance_id
        self.providers = dict(providers)
        self.lease_id = 0
        self.stream: Any = None

    async def Resolve(self, request: Any, context: Any) -> Any:
        provider = self.providers[request.provider_id]
        provider.asked.append(request.provider_resource_id)
        provider.requests.append(request)
        if provider.hangs:
            await asyncio.Event().wait()
        if provider.fails is not None:
            raise provider.fails
        if request.provider_resource_id not in provider.aliases:
            raise NotHosted(f"{request.provider_id} serves: {', '.join(sorted(provider.aliases))}")
        return provider_service_pb2.ResolveResponse(provider_resource_id=provider.aliases[request.provider_resource_id])

    def hello(self, **changed: Any) -> pb.Hello:
        reports = [provider.report(provider_id) for provider_id, provider in self.providers.items()]
        said: dict[str, Any] = {
            "instance_id": self.instance_id,
            "address": self.address,
            "lease_id": self.lease_id,
            "providers": reports,
        }
        return pb.Hello(**{**said, **changed})

    async def announce(self, channel: grpc.aio.Channel, **changed: Any) -> pb.AnnounceResponse:
        """Open a stream and say hello."""
        self.stream = AnnounceServiceStub(channel).Announce()
        return await self.say(hello=self.hello(**changed))

    async def report(self, provider_id: str, problem: str = "") -> pb.AnnounceResponse:
        return await self.say(served=self.providers[provider_id].report(provider_id, problem))

    async def say(self, **event: Any) -> pb.AnnounceResponse:
        """Send one request, return its answer; raises AioRpcError when the stream has ended."""
        async with asyncio.timeout(LIMIT):
            with suppress(asyncio.InvalidStateError):  # the registry has ended the stream; reading says why
                await self.stream.write(pb.AnnounceRequest(**event))
            answer = await self.stream.read()
        if answer is grpc.aio.EOF:
            raise EOFError(await self.stream.code())
        self.lease_id = answer.lease_id
        return answer


@asynccontextmanager
async def running(
    providers: Mapping[str, FakeProvider], registry: str | None = None, instance_id: str | None = None
) -> AsyncGenerator[FakeInstance]:
    """An instance that answers; announced, if a registry's address is given."""
    instance = FakeInstance("", providers, instance_id or f"fake-{uuid.uuid4().hex[:12]}")

    def add(server: grpc.aio.Server) -> None:
        provider_service_pb2_grpc.add_ProviderServiceServicer_to_server(instance, server)

    async with listening(
        "127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add, interceptors=[Errors()], drain_seconds=0
    ) as listener:
        instance.address = listener.address
        if registry is None:
            yield instance
            return
        async with internal_channel(registry) as channel:
            await instance.announce(channel)
            try:
                yield instance
            finally:
                instance.stream.cancel()
