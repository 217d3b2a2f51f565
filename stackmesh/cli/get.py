"""stackmesh get: what the mesh knows, all of a kind or one by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from stackmesh.cli.failures import told
from stackmesh.cli.health import require_snapshot
from stackmesh.cli.options import Output
from stackmesh.cli.show import Cell, as_json, as_yaml, plain, print_table, state, word
from stackmesh.client import Client
from stackmesh.errors import InvalidArgument, ProviderNotFound, ResourceNotFound
from stackmesh.inspect.v1.inspect_service_pb2 import ProviderInfo, RouteInfo
from stackmesh.nearest import hint
from stackmesh.registry.v1.resources_pb2 import Instance, MemoryBank, Provider, ServingState, Source
from stackmesh.resources import KINDS, Kind, Resource, api_word
from stackmesh.routing.v1.routing_pb2 import ResourceType

_TIMEOUT: Final = 10.0

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class View:
    """How one kind is listed, and one of it found."""

    all: Callable[[Client], Any]
    one: Callable[[Client, str], Any]
    columns: Sequence[str]
    row: Callable[[Any], Sequence[Cell]]


def run(address: str, kind: str, name: str | None, output: Output) -> None:
    """List one kind, or show one of it."""
    view = _VIEWS[kind]

    async def fetch() -> Sequence[Message]:
        async with Client(address, timeout=_TIMEOUT) as client:
            return await view.all(client) if name is None else [await view.one(client, name)]

    with told(address, kind.removesuffix("s"), name or "NAME"):
        found = asyncio.run(fetch())
        if output is Output.TABLE:
            print_table(view.columns, [view.row(message) for message in found])
            return
        data = [plain(message) for message in found]
        shown = data if name is None else data[0]
        print(as_json(shown) if output is Output.JSON else as_yaml(shown).rstrip("\n"))


def _resources(kind: Kind) -> View:
    async def everything(client: Client) -> Sequence[Resource]:
        return [resource async for resource in getattr(client, kind.plural).list()]

    async def one(client: Client, name: str) -> Resource:
        return await getattr(client, kind.plural).get(name)

    bank = ("KIND",) if kind.message is MemoryBank else ()
    columns = (kind.words.upper(), "STATE", *bank, "PROVIDER", "PROVIDER'S NAME", "SOURCE", "REASON")
    return View(everything, one, columns, _resource)


def _resource(resource: Resource) -> Sequence[Cell]:
    bank: tuple[str, ...] = ()
    if isinstance(resource, MemoryBank):
        bank = ((resource.params.WhichOneof("kind") or "").replace("_", "-"),)
    return (
        resource.identifier,
        state(word(ServingState.Name(resource.serving_state), "SERVING_STATE_")),
        *bank,
        resource.provider_id,
        resource.provider_resource_id,
        word(Source.Name(resource.source), "SOURCE_"),
        resource.serving_reason or resource.pending_reason,
    )


async def _providers(client: Client) -> Sequence[ProviderInfo]:
    await require_snapshot(client)
    return await client.inspect.providers()


async def _provider(client: Client, name: str) -> ProviderInfo:
    infos = {_provider_name(info.provider): info for info in await _providers(client)}
    return _only(name, infos, ProviderNotFound, "provider")


def _provider_name(provider: Provider) -> tuple[str, str]:
    return api_word(provider.api), provider.provider_id


def _provider_row(info: ProviderInfo) -> Sequence[Cell]:
    addresses = ", ".join(instance.address for instance in info.instances) or "none"
    problems = "; ".join(dict.fromkeys(instance.problem for instance in info.instances if instance.problem))
    api, provider_id = _provider_name(info.provider)
    automatic = "yes" if info.provider.auto_register else "no"
    return provider_id, api, info.provider.provider_type, automatic, addresses, state(_health(info)), problems


def _health(info: ProviderInfo) -> str:
    """What its instances found when they last asked its backend."""
    sick = sum(bool(instance.problem) or instance.ejected for instance in info.instances)
    if sick == len(info.instances):  # as well when there is none
        return "unavailable"
    return "degraded" if sick else "ok"


async def _instances(client: Client) -> Sequence[Instance]:
    return [instance async for instance in client.instances.list()]


async def _instance(client: Client, name: str) -> Instance:
    return await client.instances.get(name)


def _instance_row(instance: Instance) -> Sequence[Cell]:
    hosts = ", ".join(f"{api_word(entry.api)}/{entry.provider_id}" for entry in instance.providers)
    problems = [f"{entry.provider_id}: {entry.problem}" for entry in instance.providers if entry.problem]
    problems += [
        f"{failure.provider_resource_id}: {failure.reason}"
        for entry in instance.providers
        for failure in entry.failures
    ]
    started = instance.started_at.ToJsonString() if instance.HasField("started_at") else ""
    return instance.instance_id, instance.address, hosts, started, "; ".join(problems)


async def _routes(client: Client) -> Sequence[RouteInfo]:
    await require_snapshot(client)
    return [route async for route in client.inspect.routes()]


async def _route(client: Client, name: str) -> RouteInfo:
    routes = {(_type(route), route.identifier): route for route in await _routes(client)}
    return _only(name, routes, ResourceNotFound, "route")


def _type(route: RouteInfo) -> str:
    return word(ResourceType.Name(route.resource_type), "RESOURCE_TYPE_").replace(" ", "-")


def _route_row(route: RouteInfo) -> Sequence[Cell]:
    addresses = ", ".join(route.addresses) or "none"
    its = route.provider_id, route.provider_resource_id, addresses, route.serving_reason
    return _type(route).replace("-", " "), route.identifier, *its


def _only(
    name: str, found: Mapping[tuple[str, str], M], unknown: type[ProviderNotFound | ResourceNotFound], what: str
) -> M:
    """The one that is called NAME, or WHAT/NAME where several share it."""
    named = [key for key in found if name in (key[1], "/".join(key))]
    if len(named) == 1:
        return found[named[0]]
    if named:
        raise InvalidArgument(f"{name} names several: {_joined(named)}; write one of these")
    raise unknown(f"no {what} is called {name}; {hint(name, ['/'.join(key) for key in found])}")


def _joined(keys: Iterable[tuple[str, str]]) -> str:
    return ", ".join("/".join(key) for key in keys)


_VIEWS: Final[Mapping[str, View]] = {
    **{kind.plural.replace("_", "-"): _resources(kind) for kind in KINDS.values()},
    "providers": View(
        _providers,
        _provider,
        ("PROVIDER", "API", "TYPE", "AUTO-REGISTER", "INSTANCES", "HEALTH", "PROBLEM"),
        _provider_row,
    ),
    "instances": View(_instances, _instance, ("INSTANCE", "ADDRESS", "PROVIDERS", "STARTED", "PROBLEM"), _instance_row),
    "routes": View(_routes, _route, ("TYPE", "NAME", "PROVIDER", "PROVIDER'S NAME", "ADDRESSES", "REASON"), _route_row),
}
