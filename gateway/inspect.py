"""InspectService: what the mesh looks like from here, told from the snapshot."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import grpc
from google.protobuf.duration_pb2 import Duration

import stackmesh
from gateway.balancer import Balancer
from gateway.channels import Channels
from gateway.director import whereto
from gateway.health import serving
from gateway.pages import read_page
from gateway.snapshot import ProviderKey, Resource, Snapshot, SnapshotView
from gateway.standing import Standing
from stackmesh import choices
from stackmesh.inspect.v1 import inspect_service_pb2 as pb
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceServicer
from stackmesh.routes import HOSTED_BY, Api, Method, ResourceType
from stackmesh.serving import still, verdict

_MOST_PROBLEMS: Final = 50

RouteKey = tuple[ResourceType.ValueType, str]
"""Resource type and identifier: the order of the routes."""


class InspectService(InspectServiceServicer):
    """Answers from the latest snapshot, and from what this gateway has seen of the instances."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        view: SnapshotView,
        channels: Channels,
        balancer: Balancer,
        standing: Standing,
    ) -> None:
        self._methods = methods
        self._view = view
        self._channels = channels
        self._balancer = balancer
        self._standing = standing

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        if request.api:
            choices.check("api", request.api, Api)
        snapshot = self._snapshot
        page, following = read_page(
            "providers", _provider_keys(snapshot), request.api, lambda key: self._provider(key, snapshot), request
        )
        return pb.ListProvidersResponse(providers=page, next_page_token=following, revision=snapshot.revision)

    async def ListRoutes(self, request: pb.ListRoutesRequest, context: Any) -> pb.ListRoutesResponse:
        if request.resource_type:
            choices.check("resource_type", request.resource_type, ResourceType)
        snapshot = self._snapshot
        page, following = read_page(
            "routes", _route_keys(snapshot), request.resource_type, lambda key: _route(key, snapshot), request
        )
        return pb.ListRoutesResponse(routes=page, next_page_token=following, revision=snapshot.revision)

    async def ListMethods(self, request: pb.ListMethodsRequest, context: Any) -> pb.ListMethodsResponse:
        types: dict[Api.ValueType, set[str]] = {}
        for key, provider in self._snapshot.providers.items():
            if self._snapshot.hosts(key):
                types.setdefault(key[0], set()).add(provider.row.provider_type)
        return pb.ListMethodsResponse(
            methods=[
                pb.MethodInfo(path=path, route=method.route, provider_types=sorted(types.get(method.api, ())))
                for path, method in sorted(self._methods.items())
            ]
        )

    async def GetHealth(self, request: pb.GetHealthRequest, context: Any) -> pb.GetHealthResponse:
        snapshot = self._view.snapshot
        problems = _first(list(self._problems(snapshot)))
        status = pb.HEALTH_STATUS_OK if not problems else pb.HEALTH_STATUS_DEGRADED
        response = pb.GetHealthResponse(
            status=status if snapshot is not None else pb.HEALTH_STATUS_UNAVAILABLE,
            snapshot_stale=self._standing.stale,
            snapshot_from_file=self._standing.from_file,
            problems=problems,
        )
        if snapshot is not None:
            age = Duration()
            age.FromMilliseconds(int(self._standing.age * 1000))
            response.snapshot_revision = snapshot.revision
            response.store_id = snapshot.store_id
            response.snapshot_age.CopyFrom(age)
        return response

    async def GetVersion(self, request: pb.GetVersionRequest, context: Any) -> pb.GetVersionResponse:
        version = cast("str", cast("Any", grpc).__version__)
        return pb.GetVersionResponse(stackmesh=stackmesh.__version__, python=platform.python_version(), grpc=version)

    @property
    def _snapshot(self) -> Snapshot:
        return self._view.snapshot or Snapshot()

    def _provider(self, key: ProviderKey, snapshot: Snapshot) -> pb.ProviderInfo:
        return pb.ProviderInfo(provider=snapshot.providers[key].whole, instances=self._instances(key, snapshot))

    def _instances(self, key: ProviderKey, snapshot: Snapshot) -> Iterator[pb.InstanceInfo]:
        for host in snapshot.hosts(key):
            upstream = self._channels.peek(host.endpoint)
            yield pb.InstanceInfo(
                instance_id=host.endpoint.instance_id,
                address=host.endpoint.address,
                problem=host.problem,
                requests_in_flight=upstream.requests_in_flight if upstream is not None else 0,
                ejected=upstream is not None and self._balancer.ejected(upstream),
            )

    def _problems(self, snapshot: Snapshot | None) -> Iterator[str]:
        if snapshot is None:
            yield "the registry has not been reached yet"
            return
        if doubt := self._standing.doubt:
            yield doubt
        if short := self._channels.shortage(snapshot):
            yield short
        for key in sorted(snapshot.providers):
            problems = [host.problem for host in snapshot.hosts(key)]
            if not problems:
                yield f"no instance of the provider {key[1]} is running"
            elif all(problems):
                yield f"provider {key[1]}: {problems[0]}"
        unserved = [name for name, good in serving(self._methods.values(), snapshot).items() if not good]
        yield from (f"nothing serves {name} now" for name in unserved)


def _first(problems: list[str]) -> list[str]:
    further = len(problems) - _MOST_PROBLEMS
    return problems if further <= 0 else [*problems[:_MOST_PROBLEMS], f"and {further} more"]


def _provider_keys(snapshot: Snapshot) -> list[ProviderKey]:
    if "providers" not in snapshot.memo:
        snapshot.memo["providers"] = sorted(snapshot.providers)
    return snapshot.memo["providers"]


def _route_keys(snapshot: Snapshot) -> list[RouteKey]:
    if "routes" not in snapshot.memo:
        kinds = [kind for kind in ResourceType.values() if kind]
        snapshot.memo["routes"] = sorted((kind, name) for kind in kinds for name in snapshot.resources(kind))
    return snapshot.memo["routes"]


def _route(key: RouteKey, snapshot: Snapshot) -> pb.RouteInfo:
    kind, identifier = key
    resource: Resource = snapshot.resources(kind)[identifier]
    provider_key = HOSTED_BY[kind], resource.provider_id
    state, reason = verdict(resource, snapshot.providers.get(provider_key), snapshot.hosts(provider_key))
    called, endpoints = whereto(kind, identifier, snapshot)
    if called is not None and called is not resource:
        state, reason = still(called, reason)
        resource = called
    provider = snapshot.providers.get((HOSTED_BY[kind], resource.provider_id))
    return pb.RouteInfo(
        resource_type=kind,
        identifier=identifier,
        provider_id=resource.provider_id,
        provider_type=provider.row.provider_type if provider is not None else "",
        provider_resource_id=resource.provider_resource_id,
        addresses=[endpoint.address for endpoint in endpoints],
        serving_state=state,
        serving_reason=reason,
    )
