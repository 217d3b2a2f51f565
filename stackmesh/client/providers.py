"""client.providers: the providers the registry knows. `client.inspect.providers` tells who hosts them now."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from stackmesh.client.calls import pages, unary
from stackmesh.client.options import Options
from stackmesh.registry.v1 import providers_service_pb2 as pb
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceStub
from stackmesh.registry.v1.resources_pb2 import Provider
from stackmesh.routing.v1.routing_pb2 import Api


class Providers:
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        self._stub = ProvidersServiceStub(channel)
        self._options = options

    async def get(self, api: Api.ValueType, provider_id: str) -> Provider:
        """One provider. Raises ProviderNotFound."""
        request = pb.GetProviderRequest(api=api, provider_id=provider_id)
        return (await unary(self._stub.GetProvider, request, self._options)).provider

    async def list(self) -> AsyncGenerator[Provider]:
        """Every provider, by API and id; pages are fetched as they are needed."""
        async for page in pages(self._stub.ListProviders, pb.ListProvidersRequest(), self._options):
            for provider in page.providers:
                yield provider
