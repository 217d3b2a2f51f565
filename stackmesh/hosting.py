"""A process that hosts providers: their say in the registry, and their place in it.

`HostedProviders` asks the providers what they serve, again and again; `Hosting` answers the registry's questions
(ProviderService); `Announcer` keeps the instance registered. `services/<api>/__main__.py` puts them together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from stackmesh import names
from stackmesh.errors import InvalidField, MeshError, ProviderNotFound
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import ProviderServiceServicer
from stackmesh.providers import Provider
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.routes import Api

log = logging.getLogger(__name__)

LIST_TIMEOUT: Final = 5.0
LIST_INTERVAL: Final = 5.0
"""Seconds between two questions to a provider about what it serves."""


class HostedProviders:
    """The open providers of one API in this process, with what each was last known to serve."""

    def __init__(self, api: Api.ValueType, types: Mapping[str, str], providers: Mapping[str, Provider]) -> None:
        self._api = api
        self._types = types
        self._providers = providers
        self._reports: dict[str, ServedReport] = {}

    @property
    def reports(self) -> Sequence[ServedReport]:
        """What every provider serves, as last asked."""
        return tuple(self._reports.values())

    def get(self, provider_id: str) -> Provider:
        """The provider. Raises ProviderNotFound naming those that are here."""
        if provider_id not in self._providers:
            here = ", ".join(self._providers) or "none"
            raise ProviderNotFound(f"this instance does not host the provider {provider_id!r}; it hosts: {here}")
        return self._providers[provider_id]

    async def refresh(self) -> Sequence[ServedReport]:
        """Ask every provider what it serves; the reports that are not as before."""
        reports = await asyncio.gather(*(self.report(provider_id) for provider_id in self._providers))
        changed = [r for r in reports if r != self._reports.get(r.provider_id)]
        self._reports.update({report.provider_id: report for report in changed})
        return changed

    async def report(self, provider_id: str) -> ServedReport:
        """What one provider serves now, or what is wrong with its backend.

        A backend that is slow to say it may only be busy: what it served before counts until it says otherwise.
        """
        report = ServedReport(api=self._api, provider_id=provider_id, provider_type=self._types[provider_id])
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                served = await self.get(provider_id).list_served()
            report.provider_resource_ids.extend(filter(_can_travel, served))
            if len(report.provider_resource_ids) < len(served):
                report.problem = "some of what the backend serves has a name that cannot be registered"
        except MeshError as error:
            report.problem = error.message
        except TimeoutError:
            report.problem = f"the backend did not say within {LIST_TIMEOUT:g} s what it serves"
            if before := self._reports.get(provider_id):
                report.provider_resource_ids.extend(before.provider_resource_ids)
        except Exception:
            log.exception("provider %s could not be asked what it serves", provider_id)
            report.problem = "the provider failed when asked what it serves; its log has more"
        return report

    async def keep_fresh(self, changed: Callable[[Sequence[ServedReport]], None]) -> None:
        """Ask for ever, and tell what changed."""
        while True:
            await asyncio.sleep(LIST_INTERVAL)
            if reports := await self.refresh():
                changed(reports)


def _can_travel(name: str) -> bool:
    try:
        names.check_resource_name("served name", name)
    except InvalidField:
        return False
    return True


class Hosting(ProviderServiceServicer):
    """ProviderService: lets the registry ask the providers of this process."""

    def __init__(self, hosted: HostedProviders) -> None:
        self._hosted = hosted

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        provider = self._hosted.get(request.provider_id)
        resolved = await provider.resolve(request.provider_resource_id)
        return pb.ResolveResponse(provider_resource_id=resolved)

    async def ListServed(self, request: pb.ListServedRequest, context: Any) -> pb.ListServedResponse:
        self._hosted.get(request.provider_id)
        report = await self._hosted.report(request.provider_id)
        return pb.ListServedResponse(provider_resource_ids=report.provider_resource_ids, problem=report.problem)
