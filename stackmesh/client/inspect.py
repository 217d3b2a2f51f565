"""client.inspect: what the mesh looks like from its gateway."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import grpc

from stackmesh.client.calls import pages, unary
from stackmesh.client.options import Options
from stackmesh.inspect.v1 import inspect_service_pb2 as pb
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub


class Inspect:
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        self._stub = InspectServiceStub(channel)
        self._options = options

    async def providers(self) -> Sequence[pb.ProviderInfo]:
        """Every provider with the instances that host it."""
        listed = pages(self._stub.ListProviders, pb.ListProvidersRequest(), self._options)
        return [provider async for page in listed for provider in page.providers]

    async def routes(self) -> AsyncGenerator[pb.RouteInfo]:
        """Where each registered name goes; pages are fetched as they are needed."""
        async for page in pages(self._stub.ListRoutes, pb.ListRoutesRequest(), self._options):
            for route in page.routes:
                yield route

    async def methods(self) -> Sequence[pb.MethodInfo]:
        """The methods the gateway accepts."""
        return (await unary(self._stub.ListMethods, pb.ListMethodsRequest(), self._options)).methods

    async def health(self) -> pb.GetHealthResponse:
        """Whether the gateway and what stands behind it are well."""
        return await unary(self._stub.GetHealth, pb.GetHealthRequest(), self._options)

    async def version(self) -> pb.GetVersionResponse:
        """What runs there."""
        return await unary(self._stub.GetVersion, pb.GetVersionRequest(), self._options)
