"""A process that hosts providers: their say in the registry.

`HostedProviders` are the providers of a process; `Hosting` answers the registry's questions about them
(ProviderService). stackmesh/service.py puts them together with the rest of a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from stackmesh.errors import ProviderNotFound
from stackmesh.hosted import HostedProvider, Tell
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import ProviderServiceServicer
from stackmesh.providers import Provider
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.routes import Api

LOOK_SECONDS: Final = 1.0
"""How long an answer to Resolve may wait for the registry to hear what else is served."""


class HostedProviders:
    """The open providers of one API in this process."""

    def __init__(self, api: Api.ValueType, types: Mapping[str, str], providers: Mapping[str, Provider]) -> None:
        self.api = api
        self._hosted = {
            provider_id: HostedProvider(api, provider_id, types[provider_id], provider)
            for provider_id, provider in providers.items()
        }

    @property
    def reports(self) -> Sequence[ServedReport]:
        """What every provider serves, as last asked."""
        return tuple(hosted.last for hosted in self if hosted.last is not None)

    def __iter__(self) -> Iterator[HostedProvider]:
        return iter(self._hosted.values())

    def get(self, provider_id: str) -> Provider:
        """The provider. Raises ProviderNotFound naming those that are here."""
        return self.hosted(provider_id).provider

    def hosted(self, provider_id: str) -> HostedProvider:
        """As `get`, with what it serves."""
        if provider_id not in self._hosted:
            here = ", ".join(self._hosted) or "none"
            raise ProviderNotFound(f"this instance does not host the provider {provider_id!r}; it hosts: {here}")
        return self._hosted[provider_id]

    async def refresh(self) -> Sequence[ServedReport]:
        """Ask every provider what it serves; the reports that are not as before."""
        reports = await asyncio.gather(*(hosted.refresh() for hosted in self))
        return [report for report in reports if report is not None]

    async def keep_fresh(self, tell: Tell) -> None:
        """Ask each for ever, and tell what changed. One that is slow to answer holds up none of the others."""
        async with asyncio.TaskGroup() as group:
            for hosted in self:
                group.create_task(hosted.keep_fresh(tell))


class Hosting(ProviderServiceServicer):
    """ProviderService: lets the registry ask the providers of this process."""

    def __init__(self, hosted: HostedProviders) -> None:
        self._hosted = hosted

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        """What was pulled a moment ago is told to the registry first: who registers it calls it next."""
        hosted = self._hosted.hosted(request.provider_id)
        name = await hosted.provider.resolve(request)
        if not hosted.serves(name):
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await hosted.looked()
        return pb.ResolveResponse(provider_resource_id=name)

    async def ListServed(self, request: pb.ListServedRequest, context: Any) -> pb.ListServedResponse:
        report = await self._hosted.hosted(request.provider_id).ask()
        return pb.ListServedResponse(provider_resource_ids=report.provider_resource_ids, problem=report.problem)
