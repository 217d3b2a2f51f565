"""What `stackmesh up` says once its processes run: that a model can be called, or why none can be yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stackmesh.cli.options import GATEWAY
from stackmesh.client import Client
from stackmesh.config import Config
from stackmesh.errors import MeshError
from stackmesh.inspect.v1.inspect_service_pb2 import HEALTH_STATUS_UNAVAILABLE
from stackmesh.registry.v1.resources_pb2 import ServingState
from stackmesh.routes import ResourceType

_PATIENCE: Final = 3.0
"""Seconds that a mesh may take to know its models before anything is said about it."""
_LOOK_SECONDS: Final = 0.25
_TIMEOUT: Final = 5.0


async def welcome(config: Config, note: Callable[[str], None]) -> None:
    """Returns when a model can be called, having said so."""
    address = config.gateway.address
    option = "" if address == GATEWAY else f" --address {address}"
    said = False
    patient_until = asyncio.get_running_loop().time() + _PATIENCE
    async with Client(address, timeout=_TIMEOUT) as client:
        while (why := await _why_not(client, config)) is not None:
            if not said and asyncio.get_running_loop().time() > patient_until:
                note(f"all has started, but no model can be called yet: {why}; see: stackmesh get health{option}")
                said = True
            await asyncio.sleep(_LOOK_SECONDS)
    note(f"the mesh is up at {address}; talk to it with: stackmesh chat{option}")


async def _why_not(client: Client, config: Config) -> str | None:
    """None: a model can be called."""
    reasons: list[str] = []
    try:
        health = await client.inspect.health()
        if health.status == HEALTH_STATUS_UNAVAILABLE:
            return "; ".join(health.problems)
        async for route in client.inspect.routes():
            if route.resource_type == ResourceType.RESOURCE_TYPE_MODEL:
                if route.serving_state == ServingState.SERVING_STATE_SERVING:
                    return None
                reasons.append(f"{route.identifier}: {route.serving_reason}")
    except MeshError as error:
        return error.message
    if reasons:
        return reasons[0]
    return "none is registered" if config.providers.inference else "the YAML has no provider of inference"
