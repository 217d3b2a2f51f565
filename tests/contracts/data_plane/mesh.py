"""A registry, two backends and a plane in front of them."""

from __future__ import annotations

import asyncio
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import yaml

from stackmesh.config import Config, parse
from stackmesh.registry.v1 import models_service_pb2
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.transport import CLIENT_CHANNEL
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.backend import CALL_ID, PROVIDER_TYPE, Backend, Seen
from tests.contracts.data_plane.plane import MODEL, PROVIDER, PROVIDER_MODEL, Plane, Running, Setup
from tests.contracts.data_plane.processes import announcing, started
from tests.ports import free_port
from tests.waiting import until

PAIR: Final = "pair"
UNARY_TIMEOUT: Final = 1.0
STREAM_TIMEOUT: Final = 1.5
_READY_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Doomed:
    """A backend in a process of its own."""

    process: Process

    async def saw(self, call_id: str) -> None:
        """Wait until it has this call."""
        async with asyncio.timeout(10):
            while await self._said() != f"SEEN {call_id}":
                pass

    async def kill(self) -> None:
        """As the kernel does it: no goodbye."""
        self.process.kill()
        await self.process.wait()

    async def _said(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()


@dataclass(frozen=True, slots=True)
class Mesh:
    """MODEL is served by `alpha`, PAIR by `alpha` and `beta`."""

    config: Config
    plane: Running
    folder: Path
    channel: grpc.aio.Channel
    alpha: Backend
    beta: Backend
    registry: Process | None
    """Its process; none where a control needs none."""

    @property
    def client(self) -> api.Client:
        return api.Client(self.channel, self.plane.always)

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[api.Client]:
        """A client with a connection of its own."""
        async with channel(self.plane.address) as own:
            yield api.Client(own, self.plane.always)

    @asynccontextmanager
    async def joined(self, instance_id: str, provider_id: str, *served: str, **options: Any) -> AsyncGenerator[Backend]:
        """One more instance, in this process."""
        async with Backend(instance_id, {provider_id: served}).running(self.config.registry.address, **options) as it:
            yield it

    @asynccontextmanager
    async def joined_process(self, instance_id: str, provider_id: str, *served: str) -> AsyncGenerator[Doomed]:
        """One more instance, in a process of its own that can be killed."""
        module, log = "tests.contracts.data_plane.backend_process", self.folder / f"{instance_id}.log"
        registry = self.config.registry.address
        async with announcing(module, registry, instance_id, provider_id, *served, log=log) as (process, _):
            yield Doomed(process)

    async def register(self, model_id: str, **fields: Any) -> None:
        """Register a model through the plane."""
        await register(self.channel, model_id, **fields)

    async def seen(self, call_id: str) -> Seen:
        """The one call with this id, once a backend has it."""
        await until(lambda: self.all_seen(call_id))
        (seen,) = self.all_seen(call_id)
        return seen

    def all_seen(self, call_id: str) -> list[Seen]:
        return [*self.alpha.of(call_id), *self.beta.of(call_id)]

    def calls(self) -> int:
        """How many calls have reached a backend."""
        return len(self.alpha.seen) + len(self.beta.seen)


def called(*more: tuple[str, str | bytes]) -> tuple[str, api.Metadata]:
    """A call's own id, and the metadata that carries it."""
    call_id = uuid.uuid4().hex
    return call_id, ((CALL_ID, call_id), *more)


async def until_answered(ask: Callable[[], Awaitable[Any]], seconds: float = _READY_SECONDS) -> Any:
    """Ask until there is an answer."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await ask()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)


def channel(address: str) -> grpc.aio.Channel:
    """As a client opens it, on a connection of its own."""
    return grpc.aio.insecure_channel(address, options=(*CLIENT_CHANNEL, ("grpc.use_local_subchannel_pool", 1)))


async def register(channel: grpc.aio.Channel, model_id: str, **fields: Any) -> None:
    request = models_service_pb2.RegisterModelRequest(model_id=model_id, **fields)
    await ModelsServiceStub(channel).RegisterModel(request, timeout=api.TIMEOUT)


def configuration(folder: Path) -> Config:
    registry, gateway = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    tree = {
        "version": 1,
        "registry": {
            "store": f"sqlite:///{folder}/registry.db",
            "address": registry,
            "lease_ttl": 5.0,
        },
        "gateway": {
            "address": gateway,
            "snapshot_file": str(folder / "gateway.snapshot"),
            "unary_timeout": UNARY_TIMEOUT,
            "stream_timeout": STREAM_TIMEOUT,
        },
        "providers": {"inference": [{"provider_id": p, "provider_type": PROVIDER_TYPE} for p in (PROVIDER, PAIR)]},
        "models": [
            {"model_id": MODEL, "provider_id": PROVIDER, "provider_model_id": PROVIDER_MODEL},
            {"model_id": PAIR, "provider_id": PAIR},
        ],
    }
    return parse(yaml.safe_dump(tree), {}, "the mesh under test")


@asynccontextmanager
async def registry(config: Config, folder: Path) -> AsyncGenerator[Process]:
    """The registry, in a process of its own."""
    path = folder / "registry.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    address = config.registry.address
    async with started("registry_service", "--config", path, log=folder / "registry.log", address=address) as process:
        yield process


@asynccontextmanager
async def running(plane: Plane, folder: Path) -> AsyncGenerator[Mesh]:
    """Everything, once both models answer. A control has no registry and one model."""
    config = configuration(folder)
    async with AsyncExitStack() as stack:
        home = None if plane.control else config.registry.address
        process = None if plane.control else await stack.enter_async_context(registry(config, folder))
        alpha = Backend("alpha", {PROVIDER: (PROVIDER_MODEL,), PAIR: (PAIR,)})
        beta = Backend("beta", {PAIR: (PAIR,)})
        for backend in (alpha, beta):
            await stack.enter_async_context(backend.running(home))
        setup = Setup(config, api.descriptor_set(), folder, alpha.address)
        started_plane = await stack.enter_async_context(plane.running(setup))
        own = await stack.enter_async_context(channel(started_plane.address))
        mesh = Mesh(config, started_plane, folder, own, alpha, beta, process)
        for model in (MODEL,) if plane.control else (MODEL, PAIR):
            await until_answered(lambda model=model: mesh.client.unary(api.request(model)))
        yield mesh
