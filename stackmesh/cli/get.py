"""stackmesh get: what the mesh knows, as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stackmesh.cli.failures import told
from stackmesh.client import Client
from stackmesh.inspect.v1.inspect_service_pb2 import ProviderInfo, RouteInfo
from stackmesh.registry.v1.resources_pb2 import Model, ServingState, Source
from stackmesh.routing.v1.routing_pb2 import Api, ResourceType

_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True)
class View:
    """How one kind is listed."""

    fetch: Callable[[Client], Any]
    columns: Sequence[str]
    row: Callable[[Any], Sequence[str]]


async def _models(client: Client) -> Sequence[Model]:
    return [model async for model in client.models.list()]


async def _providers(client: Client) -> Sequence[ProviderInfo]:
    return await client.inspect.providers()


async def _routes(client: Client) -> Sequence[RouteInfo]:
    return [route async for route in client.inspect.routes()]


def _model(model: Model) -> Sequence[str]:
    state = _word(ServingState.Name(model.serving_state), "SERVING_STATE_")
    source = _word(Source.Name(model.source), "SOURCE_")
    why = model.serving_reason or model.pending_reason
    return model.identifier, state, model.provider_id, model.provider_resource_id, source, why


def _provider(info: ProviderInfo) -> Sequence[str]:
    api = _word(Api.Name(info.provider.api), "API_")
    addresses = ", ".join(instance.address for instance in info.instances) or "none"
    problems = "; ".join({instance.problem for instance in info.instances if instance.problem})
    return info.provider.provider_id, api, info.provider.provider_type, addresses, problems


def _route(route: RouteInfo) -> Sequence[str]:
    kind = _word(ResourceType.Name(route.resource_type), "RESOURCE_TYPE_")
    addresses = ", ".join(route.addresses) or "none"
    return kind, route.identifier, route.provider_id, route.provider_resource_id, addresses, route.serving_reason


_VIEWS: Final[Mapping[str, View]] = {
    "models": View(_models, ("MODEL", "STATE", "PROVIDER", "PROVIDER'S NAME", "SOURCE", "REASON"), _model),
    "providers": View(_providers, ("PROVIDER", "API", "TYPE", "INSTANCES", "PROBLEM"), _provider),
    "routes": View(_routes, ("TYPE", "NAME", "PROVIDER", "PROVIDER'S NAME", "ADDRESSES", "REASON"), _route),
}


def run(address: str, kind: str, *, as_json: bool) -> None:
    """List one kind: models, providers or routes."""
    view = _VIEWS[kind]
    with told(address):
        found = asyncio.run(_fetch(address, view))
        if as_json:
            print(json.dumps([_plain(message) for message in found], indent=2, ensure_ascii=False))
        else:
            _print_table(view, found)


async def _fetch(address: str, view: View) -> Sequence[Message]:
    async with Client(address, timeout=_TIMEOUT) as client:
        return await view.fetch(client)


def _plain(message: Message) -> Mapping[str, Any]:
    """Every field under its proto name, unset ones too: programs can rely on them."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _print_table(view: View, found: Sequence[Message]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in view.columns:
        table.add_column(column, overflow="fold")
    for message in found:
        table.add_row(*(Text(cell) for cell in view.row(message)))
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width; lines stay whole
    Console(width=width).print(table)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
