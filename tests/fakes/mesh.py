"""A whole mesh in this process: the real registry, gateway and inference service on free ports of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

import gateway.server
import registry_service.server
from services.inference.server import INFERENCE
from stackmesh import service
from stackmesh.client import Client
from stackmesh.config import Config, parse
from stackmesh.registry.v1.resources_pb2 import ServingState
from stackmesh.service import Service
from tests.ports import free_port
from tests.waiting import until

SERVING = ServingState.SERVING_STATE_SERVING


def mesh_config(
    folder: Path, providers: Sequence[Mapping[str, Any]], models: Sequence[Any], **gateway_options: float
) -> Config:
    """`models` are names, or whole declarations."""
    tree = {
        "version": 1,
        "registry": {"store": f"sqlite:///{folder}/registry.db", "address": f"127.0.0.1:{free_port()}"},
        "gateway": {
            "address": f"127.0.0.1:{free_port()}",
            "snapshot_file": str(folder / "gateway.snapshot"),
            **gateway_options,
        },
        "providers": {"inference": list(providers)},
        "models": [{"model_id": model} if isinstance(model, str) else model for model in models],
    }
    return parse(yaml.safe_dump(tree), {}, "the mesh under test")


@asynccontextmanager
async def running_mesh(
    config: Config, *, serving: Sequence[str] = (), inference: Service = INFERENCE
) -> AsyncGenerator[Client]:
    """A client of the mesh, once the models of `serving` can be called."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(registry_service.server.running(config))
        await stack.enter_async_context(gateway.server.running(config))
        await stack.enter_async_context(service.running(config, inference))
        client = await stack.enter_async_context(Client(config.gateway.address, timeout=30))
        await until(lambda: all_serving(client, serving))
        yield client


async def all_serving(client: Client, models: Sequence[str]) -> bool:
    """Whether the gateway's snapshot routes all of these."""
    async with asyncio.timeout(5):
        states = {route.identifier: route.serving_state async for route in client.inspect.routes()}
    return all(states.get(model) == SERVING for model in models)
