"""What the registry and the gateway's copy of it cost as they grow: 10, 1,000 and 10,000 models.

    Register -> gateway -> registry -> instance (Resolve) -> store -> watch -> snapshot of a second gateway

`routable_ms` runs from sending Register to the moment the second gateway's snapshot holds its revision; the model is
not called. The stores are filled in batches beforehand. The 10,000 models belong to 100 providers with 1,000 instances,
each with a connected channel when the gateway's memory is read. CPU per call is the gateway's own clock, the two sizes
in turn within every round, on the core they share; each has ten instances to choose from.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, cast

import grpc
import yaml

import gateway.server
from benchmarks import requests, seed
from benchmarks.gateway import Case, Load, cores
from benchmarks.mesh import until_answered
from benchmarks.plan import Plan, Result
from benchmarks.processes import Child, running
from benchmarks.seed import Size
from gateway.snapshot import Snapshot, SnapshotView
from stackmesh.config import load
from stackmesh.ports import free_port
from stackmesh.reflector import RegistrySource
from stackmesh.registry.v1 import models_service_pb2 as pb
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.tasks import background
from stackmesh.transport import CLIENT_CHANNEL, registry_channel
from tests.fakes.etcd import etcd

SIZES: Final = (Size(10, 1), Size(1_000, 10), Size(10_000, 100))
SMALL, LARGE = SIZES[0], SIZES[-1]

KEYS: Final[Mapping[str, str]] = {
    "routable_ms_p50.10": "ms from sending Register to its revision in a second gateway's snapshot, at 10 models",
    "routable_ms_p99.10": "the same, the 99th percentile",
    "routable_ms_p50.1000": "the same at 1,000 models",
    "routable_ms_p99.1000": "the same, the 99th percentile; target <= 100",
    "routable_ms_p50.10000": "the same at 10,000 models and 1,000 instances",
    "routable_ms_p99.10000": "the same, the 99th percentile; target <= 1000",
    "list_ms.10": "ms to list everything from the registry at 10 models, median",
    "list_ms.1000": "the same at 1,000 models",
    "list_ms.10000": "the same at 10,000 models and 1,000 instances",
    "gateway_rss_mb.10": "MB of memory of a gateway at 10 models and 10 instances",
    "gateway_rss_mb.10000": "the same at 10,000 models with a channel to each of 1,000 instances; target < 150",
    "gateway_sockets.10000": "sockets that gateway had open then: more than 1,000",
    "call_ratio_10000_over_10": "gateway CPU per unary call at 10,000 models over that at 10",
    "null.call_ratio": "a second gateway at 10 models over the first; 1 on a quiet machine",
    "call_us.10": "CPU microseconds of the gateway per unary call at 10 models",
    "call_us.10000": "the same at 10,000",
    "samples": "registrations timed at each size",
    "rounds": "interleaved rounds of calls; figures are medians over them",
}
"""Every key of the result and what it means."""

CHOICES: Final[Mapping[str, Sequence[str]]] = {"store": ("sqlite", "etcd")}
VENVS: Final[Mapping[str, str]] = {}

PLAN: Final = Plan(rounds=9, samples=200, limit=300, seconds=0.45, store="sqlite")
FULL_PLAN: Final = Plan(rounds=21, samples=1000, limit=1800, seconds=2.0, store="sqlite")

_LISTS: Final = 5
_CALLS_AT_ONCE: Final = 16
_START_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Mesh:
    """A registry of one size, with a gateway."""

    size: Size
    file: Path
    registry: str
    address: str
    gateway: Child


async def measure(plan: Plan, folder: Path) -> Result:
    """Run the benchmark with its files in `folder`. The result has exactly the keys of KEYS."""
    result: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        _, around = cores(os.sched_getaffinity(0))
        crowd = await stack.enter_async_context(
            running("crowd", "benchmarks.crowd", folder=folder, talks=True, cpus=around)
        )
        port = int(await crowd.read_line())
        store = await stack.enter_async_context(_store(plan.store, folder))
        meshes = {
            size.models: await stack.enter_async_context(_mesh(size, f"{store}{size.models}", folder, port, plan))
            for size in SIZES
        }
        for models, mesh in meshes.items():
            result |= await _registrations(mesh, plan, str(models))
        load = Load(await stack.enter_async_context(running("load", "benchmarks.load", folder=folder, talks=True)))
        await _call_all(meshes[LARGE.models])
        await _call_all(meshes[SMALL.models])
        twin = await stack.enter_async_context(_gateway("twin", meshes[SMALL.models].file, folder, plan))
        cases = [
            Case("small", meshes[SMALL.models].address, meshes[SMALL.models].gateway),
            Case("large", meshes[LARGE.models].address, meshes[LARGE.models].gateway),
            Case("null", *twin),
        ]
        result |= await _calls(load, cases, plan)
        result |= {f"gateway_rss_mb.{m}": meshes[m].gateway.rss_mb for m in (SMALL.models, LARGE.models)}
        result["gateway_sockets.10000"] = meshes[LARGE.models].gateway.sockets
    return {**result, "samples": plan.samples, "rounds": plan.rounds}


async def _registrations(mesh: Mesh, plan: Plan, suffix: str) -> dict[str, float]:
    """Register, wait for the second gateway, unregister; again and again. And the time a whole list takes."""
    plan.say(f"registering at {suffix} models")
    config = load(mesh.file, {})
    second = config.model_copy(
        update={"gateway": config.gateway.model_copy(update={"address": "127.0.0.1:0", "snapshot_file": None})}
    )
    took: list[float] = []
    async with AsyncExitStack() as stack:
        gateway_b = await stack.enter_async_context(gateway.server.running(second))
        seen = Seen(gateway_b.view)
        await stack.enter_async_context(background(seen.run(), "second gateway"))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(mesh.address, options=CLIENT_CHANNEL))
        models = ModelsServiceStub(channel)
        for number in range(plan.samples):
            name = f"new/{number}"
            request = pb.RegisterModelRequest(model_id=name, provider_id=seed.provider_id(number % mesh.size.providers))
            start = time.perf_counter()
            answer = await models.RegisterModel(request, timeout=_CALL_SECONDS)
            took.append((await seen.at(answer.model.revision) - start) * 1000)
            await models.UnregisterModel(pb.UnregisterModelRequest(model_id=name), timeout=_CALL_SECONDS)
        registry = await stack.enter_async_context(registry_channel(mesh.registry))
        lists = [await _list_ms(registry) for _ in range(_LISTS)]
    return {
        f"routable_ms_p50.{suffix}": round(median(took), 2),
        f"routable_ms_p99.{suffix}": round(_p99(took), 2),
        f"list_ms.{suffix}": round(median(lists), 1),
    }


class Seen:
    """When a gateway's snapshot moved, and to which revision."""

    def __init__(self, view: SnapshotView) -> None:
        self._view = view
        self._moves: list[tuple[int, float]] = []
        self._moved = asyncio.Event()

    async def run(self) -> None:
        snapshot: Snapshot | None = None
        while True:
            snapshot = await self._view.changed(snapshot)
            self._moves.append((snapshot.revision, time.perf_counter()))
            self._moved.set()

    async def at(self, revision: int) -> float:
        """When the snapshot first held it; everything before is forgotten."""
        async with asyncio.timeout(_CALL_SECONDS):
            while not self._moves or self._moves[-1][0] < revision:
                self._moved.clear()
                await self._moved.wait()
        first = next(when for its_revision, when in self._moves if its_revision >= revision)
        self._moves.clear()
        return first


async def _list_ms(registry: grpc.aio.Channel) -> float:
    start = time.perf_counter()
    await RegistrySource(registry).list()
    return (time.perf_counter() - start) * 1000


async def _call_all(mesh: Mesh) -> None:
    """Call so often that the gateway has a channel to every instance: of several, the one that has rested longest."""
    limit = asyncio.Semaphore(_CALLS_AT_ONCE)
    async with grpc.aio.insecure_channel(mesh.address, options=CLIENT_CHANNEL) as channel:
        call = cast("Any", channel).unary_unary(requests.CHAT)  # bytes in, bytes out

        async def provider(number: int) -> None:
            asked = requests.chat(seed.model_id(number), "hello", 1).SerializeToString()
            async with limit:
                for _ in range(seed.INSTANCES_PER_PROVIDER):
                    await call(asked, timeout=_CALL_SECONDS)

        await asyncio.gather(*(provider(number) for number in range(mesh.size.providers)))


async def _calls(load: Load, cases: Sequence[Case], plan: Plan) -> dict[str, float]:
    us: dict[str, list[float]] = {case.name: [] for case in cases}
    for case in cases:
        await load.cost(case, 0, plan.seconds)
    for number in range(plan.rounds):
        plan.say(f"calls: round {number + 1} of {plan.rounds}")
        turn = number % len(cases)
        for case in (*cases[turn:], *cases[:turn]):
            us[case.name].append((await load.cost(case, 0, plan.seconds)).us)
    return {
        "call_ratio_10000_over_10": _ratio(us["large"], us["small"]),
        "null.call_ratio": _ratio(us["null"], us["small"]),
        "call_us.10": round(median(us["small"]), 1),
        "call_us.10000": round(median(us["large"]), 1),
    }


@asynccontextmanager
async def _store(kind: str, folder: Path) -> AsyncGenerator[str]:
    """The URL of a store, up to the last part of its name."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/registry-"
    else:
        async with etcd(folder) as member:
            yield f"etcd://{member.address}/bench-"


@asynccontextmanager
async def _mesh(size: Size, store: str, folder: Path, port: int, plan: Plan) -> AsyncGenerator[Mesh]:
    plan.say(f"filling a registry with {size.models} models and {size.instances} instances")
    await seed.seed(store, size, port)
    file, registry = folder / f"mesh-{size.models}.yaml", f"127.0.0.1:{free_port()}"
    providers = [
        {"provider_id": seed.provider_id(number), "provider_type": seed.PROVIDER_TYPE}
        for number in range(size.providers)
    ]
    tree = {
        "version": 1,
        "registry": {"store": store, "address": registry},
        "gateway": {"address": "127.0.0.1:0", "snapshot_file": None},
        "providers": {"inference": providers},
    }
    file.write_text(yaml.safe_dump(tree))
    name = f"registry-{size.models}"
    async with running(name, "registry_service", "--config", str(file), folder=folder):
        async with _gateway(f"gateway-{size.models}", file, folder, plan) as (address, process):
            yield Mesh(size, file, registry, address, process)


@asynccontextmanager
async def _gateway(name: str, mesh: Path, folder: Path, plan: Plan) -> AsyncGenerator[tuple[str, Child]]:
    """A gateway that answers calls of the mesh's first model, and where."""
    address = f"127.0.0.1:{free_port()}"
    file = folder / f"{name}.yaml"
    _write_for(address, mesh, file)
    plan.say(f"starting {name}")
    middle, _ = cores(os.sched_getaffinity(0))
    async with running(name, "gateway", "--config", str(file), folder=folder, cpus=middle) as process:
        await until_answered(address, requests.chat(seed.MODEL, "hello", 1), _START_SECONDS, [process])
        yield address, process


def _write_for(address: str, mesh: Path, file: Path) -> None:
    """The mesh's YAML, but for the gateway's address."""
    tree = yaml.safe_load(mesh.read_text())
    tree["gateway"]["address"] = address
    file.write_text(yaml.safe_dump(tree))


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return round(median(a / b for a, b in zip(over, under, strict=True)), 3)


def _p99(values: Sequence[float]) -> float:
    return quantiles(values, n=100, method="inclusive")[-1]
