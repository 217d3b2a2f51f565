"""stackmesh register and update: names for models, shields, memory banks and agents."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import typer

from stackmesh.cli.banks import BankOptions, in_options
from stackmesh.cli.failures import told
from stackmesh.client import Client
from stackmesh.registry.v1.resources_pb2 import ServingState
from stackmesh.resources import Resource

T = TypeVar("T")

_TIMEOUT: Final = 30.0
"""The provider is asked, and may have to ask its backend."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What a name shall stand for. None: not said."""

    kind: str
    """`memory-bank`."""
    name: str
    provider_id: str | None
    provider_name: str | None
    payload: Mapping[str, Any] | BankOptions | None
    """Metadata or params."""

    def fields(self) -> Mapping[str, Any]:
        """As the client's methods take them."""
        word = self.kind.replace("-", "_")
        payload = "params" if self.kind in ("shield", "memory-bank") else "metadata"
        said = {"provider_id": self.provider_id, f"provider_{word}_id": self.provider_name, payload: self.payload}
        return {field: value for field, value in said.items() if value is not None}


def register(address: str, naming: Naming) -> None:
    fields = dict(naming.fields())
    if isinstance(naming.payload, BankOptions):
        fields["params"] = naming.payload.params()

    async def call(client: Client) -> Resource:
        return await names_of(client, naming.kind).register(naming.name, **fields)

    _tell("registered", done(address, naming.kind, naming.name, call))


def update(address: str, naming: Naming, expected_revision: int | None) -> None:
    """Without an expected revision the one it is at now."""
    fields = dict(naming.fields())
    if not fields:
        raise typer.BadParameter("nothing to change was given; --help shows what can be")

    async def call(client: Client) -> Resource:
        names, revision = names_of(client, naming.kind), expected_revision
        if revision is None or isinstance(naming.payload, BankOptions):
            before = await names.get(naming.name)
            revision = revision or before.revision
            if isinstance(naming.payload, BankOptions):
                fields["params"] = naming.payload.changed(before.params)
        return await names.update(naming.name, expected_revision=revision, **fields)

    _tell("updated", done(address, naming.kind, naming.name, call))


def names_of(client: Client, kind: str) -> Any:
    """client.memory_banks for `memory-bank`: which of them is known when the command runs."""
    return getattr(client, f"{kind.replace('-', '_')}s")


def parse_values(option: str, pairs: Sequence[str], text: str | None) -> Mapping[str, Any] | None:
    """`KEY=VALUE` pairs and a JSON object, together; None when neither is given."""
    if not pairs and text is None:
        return None
    values = dict(_parse_object(option, text)) if text is not None else {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint=f"--{option}")
        values[key] = value
    return values


def _parse_object(option: str, text: str) -> Mapping[str, Any]:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint=f"--{option}-json") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("is not a JSON object", param_hint=f"--{option}-json")
    return cast("Mapping[str, Any]", value)


def done(address: str, kind: str, name: str, call: Callable[[Client], Awaitable[T]]) -> T:
    """What a call about one name gives. Ends the command when it fails."""

    async def run() -> T:
        async with Client(address, timeout=_TIMEOUT) as client:
            return await call(client)

    with told(address, kind, name), in_options():
        return asyncio.run(run())


def _tell(done: str, resource: Resource) -> None:
    its = f"{resource.provider_id} serves it as {resource.provider_resource_id}"
    if resource.serving_state != ServingState.SERVING_STATE_SERVING and resource.serving_reason:
        its = f"{resource.provider_id} knows it as {resource.provider_resource_id}; not yet: {resource.serving_reason}"
    typer.echo(f"{done} {resource.identifier}: {its}")
