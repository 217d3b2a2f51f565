"""stackmesh register and unregister: names for models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import typer

from stackmesh.cli.failures import told
from stackmesh.client import Client
from stackmesh.registry.v1.resources_pb2 import Model

_TIMEOUT: Final = 30.0
"""The provider is asked, and may have to ask its backend."""


def register(
    address: str, name: str, provider_id: str | None, provider_model_id: str | None, metadata: Mapping[str, Any] | None
) -> None:
    async def call() -> Model:
        async with Client(address, timeout=_TIMEOUT) as client:
            return await client.models.register(
                name, provider_id=provider_id, provider_model_id=provider_model_id, metadata=metadata
            )

    with told(address):
        model = asyncio.run(call())
        typer.echo(f"registered {model.identifier}: {model.provider_id} serves it as {model.provider_resource_id}")


def unregister(address: str, name: str) -> None:
    async def call() -> None:
        async with Client(address, timeout=_TIMEOUT) as client:
            await client.models.unregister(name)

    with told(address):
        asyncio.run(call())
        typer.echo(f"unregistered {name}")


def parse_metadata(pairs: Sequence[str], text: str | None) -> Mapping[str, Any] | None:
    """`KEY=VALUE` pairs and a JSON object, together; None when neither is given."""
    if not pairs and text is None:
        return None
    metadata = dict(_parse_object(text)) if text is not None else {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--metadata")
        metadata[key] = value
    return metadata


def _parse_object(text: str) -> Mapping[str, Any]:
    try:
        value: object = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is not JSON: {error}", param_hint="--metadata-json") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("is not a JSON object", param_hint="--metadata-json")
    return cast("Mapping[str, Any]", value)
