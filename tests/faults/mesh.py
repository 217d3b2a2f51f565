"""A mesh of processes: several registries and gateways over one store, and instances of inference that echo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from stackmesh.client import Client, user
from stackmesh.errors import MeshError, NotFound, Unavailable
from stackmesh.inspect.v1.inspect_service_pb2 import GetHealthResponse, InstanceInfo
from stackmesh.tasks import background
from tests.faults.processes import Member
from tests.ports import free_ports
from tests.waiting import until

PROVIDER: Final = "echo"
SERVED: Final = tuple(f"echo-{number}" for number in range(4))
"""The provider's own names."""
MODEL: Final = SERVED[0]
"""Declared in the YAML."""
ECHO: Final = {"provider_id": PROVIDER, "provider_type": "inline::echo", "config": {"models": [*SERVED]}}


@dataclass(frozen=True, slots=True)
class Mesh:
    """The processes, by their kind. All have configurations; who runs is up to the test."""

    folder: Path
    registries: Sequence[Member]
    gateways: Sequence[Member]
    instances: Sequence[Member]
    registry_addresses: Sequence[str]
    gateway_addresses: Sequence[str]
    metrics_addresses: Sequence[str]
    clients: Sequence[Client]
    """One a gateway."""

    @property
    def members(self) -> Sequence[Member]:
        return (*self.registries, *self.gateways, *self.instances)

    async def start(self) -> None:
        """All at once, as a cluster does it, and wait until MODEL can be called through every gateway."""
        async with asyncio.TaskGroup() as group:
            for member in self.members:
                group.create_task(member.start())
        for client in self.clients:
            await until(lambda client=client: callable_(client), 30)

    async def health(self, gateway: int = 0) -> GetHealthResponse:
        return await self.clients[gateway].inspect.health()

    async def stale(self, gateway: int = 0) -> bool:
        return (await self.health(gateway)).snapshot_stale

    async def hosting(self, gateway: int = 0) -> Sequence[InstanceInfo]:
        """The instances that are in the rotation of a gateway."""
        return next((p.instances for p in await self.clients[gateway].inspect.providers()), ())

    async def unroutable(self, model: str, gateway: int) -> bool:
        """Whether the gateway answers that there is no such model."""
        try:
            await say(self.clients[gateway], model)
        except NotFound:
            return True
        return False

    async def in_step(self) -> bool:
        """Whether every gateway is fresh, from the registry, and all are at one revision."""
        healths = await asyncio.gather(*(self.health(number) for number in range(len(self.clients))))
        fresh = not any(health.snapshot_stale or health.snapshot_from_file for health in healths)
        return fresh and len({health.snapshot_revision for health in healths}) == 1


async def say(client: Client, model: str = MODEL) -> str:
    """Which model answered, by its provider's own name."""
    answer = await client.inference.chat_completion(model_id=model, messages=[user("who are you?")])
    return answer.completion_message.content.items[0].text


async def callable_(client: Client, model: str = MODEL) -> bool:
    try:
        await say(client, model)
    except MeshError:
        return False
    return True


async def registered(client: Client, name: str) -> bool:
    """Whether the registry could be asked to give a model this name, as `echo-1`."""
    try:
        await client.models.register(name, provider_model_id="echo-1")
    except Unavailable:
        return False
    return True


@dataclass(slots=True)
class Calls:
    """What became of calls that were made one after the other."""

    made: int = 0
    failed: list[MeshError] = field(default_factory=list[MeshError])


@asynccontextmanager
async def calling(client: Client, model: str = MODEL, pause: float = 0.05) -> AsyncGenerator[Calls]:
    """Calls a model again and again while the body runs."""
    calls = Calls()

    async def call() -> None:
        while True:
            try:
                await say(client, model)
            except MeshError as error:
                calls.failed.append(error)
            calls.made += 1
            await asyncio.sleep(pause)

    async with background(call(), "calls"):
        yield calls


@asynccontextmanager
async def meshed(
    folder: Path,
    store: str | Callable[[int], str],
    *,
    registries: int = 2,
    gateways: int = 2,
    instances: int = 1,
    lease_ttl: float = 15.0,
    provider: Mapping[str, Any] = ECHO,
    models: Sequence[str] = (MODEL,),
) -> AsyncGenerator[Mesh]:
    """A mesh that is not started yet. `store` is a URL, or gives that of each registry; `models` are declared."""
    free = iter([f"127.0.0.1:{port}" for port in free_ports(registries + 2 * gateways)])
    listen, addresses, metrics = ([next(free) for _ in range(count)] for count in (registries, gateways, gateways))
    everybodys = {"store": "sqlite:///unused.db", "address": ",".join(listen), "lease_ttl": lease_ttl}
    tree = {
        "version": 1,
        "providers": {"inference": [dict(provider)]},
        "models": [{"model_id": model} for model in models],
    }

    def member(module: str, name: str, **changed: Mapping[str, Any]) -> Member:
        path = folder / f"{name}.yaml"
        registry = {**everybodys, "listen": listen[0], **changed.get("registry", {})}
        path.write_text(yaml.safe_dump({**tree, **changed, "registry": registry}))
        return Member(module, path, name)

    def url(number: int) -> str:
        return store(number) if callable(store) else store

    async with AsyncExitStack() as stack:
        mesh = Mesh(
            folder=folder,
            registries=[
                member("registry_service", f"registry-{n}", registry={"listen": address, "store": url(n)})
                for n, address in enumerate(listen)
            ],
            gateways=[
                member("gateway", f"gateway-{n}", gateway=_gateway(folder, n, address, metrics[n]))
                for n, address in enumerate(addresses)
            ],
            instances=[member("services.inference", f"inference-{n}") for n in range(instances)],
            registry_addresses=listen,
            gateway_addresses=addresses,
            metrics_addresses=metrics,
            clients=[await stack.enter_async_context(Client(address, timeout=10)) for address in addresses],
        )
        for one in mesh.members:
            stack.push_async_exit(one)
        yield mesh


def _gateway(folder: Path, number: int, address: str, metrics: str) -> Mapping[str, Any]:
    return {
        "address": address,
        "snapshot_file": str(folder / f"gateway-{number}.snapshot"),
        "metrics_address": metrics,
    }
