"""What the gateway costs: CPU per call and per chunk, beside the least a Python proxy can do.

    load ---------------> backend     direct: the backend's own CPU
    load -> bare proxy -> backend     bare, and null: a second copy of it
    load -> gateway ----> backend     python: the gateway, named after its data plane

The same load and the same backend each time, the cases in turn within every round, and in another order each round.
CPU is read from the clock of the process in the middle while no call is under way, so it holds on a busy machine. The
processes in the middle have one core for themselves, the others share the rest: moving between cores costs CPU too.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import backend, mesh, requests
from benchmarks.plan import Plan, Result
from benchmarks.processes import Child, running

KEYS: Final[Mapping[str, str]] = {
    "python.call_ratio": "gateway / bare proxy, CPU per unary call; target <= 1.25",
    "python.chunk_ratio": "gateway / bare proxy, CPU per streamed chunk; target <= 1.2",
    "null.call_ratio": "bare proxy / a second copy of it, CPU per unary call; 1 on a quiet machine",
    "null.chunk_ratio": "the same per streamed chunk",
    "ttft_added_ms_p50": "ms the gateway adds to the first chunk, one call at a time; target <= 3",
    "unstable": "true when null.call_ratio leaves 0.9 to 1.1: measure again on a quieter machine",
    "direct.call_us": "CPU microseconds of the backend per unary call, called directly",
    "direct.chunk_us": "CPU microseconds of the backend per streamed chunk, called directly",
    "bare.call_us": "CPU microseconds of the bare proxy per unary call",
    "bare.chunk_us": "CPU microseconds of the bare proxy per streamed chunk",
    "null.call_us": "CPU microseconds of its second copy per unary call",
    "null.chunk_us": "CPU microseconds of its second copy per streamed chunk",
    "python.call_us": "CPU microseconds of the gateway per unary call",
    "python.chunk_us": "CPU microseconds of the gateway per streamed chunk",
    "direct.ttft_ms_p50": "ms until the first chunk, called directly, one call at a time",
    "bare.ttft_ms_p50": "ms until the first chunk through the bare proxy",
    "python.ttft_ms_p50": "ms until the first chunk through the gateway",
    "rounds": "interleaved rounds; figures are medians over them",
    "concurrency": "callers of the closed loop",
    "chunks_per_stream": "messages of a stream; opening it is part of what its chunks cost",
}
"""Every key of the result and what it means."""

CHOICES: Final[Mapping[str, Sequence[str]]] = {}
VENVS: Final[Mapping[str, str]] = {}

PLAN: Final = Plan(rounds=9, samples=150, limit=60, seconds=0.45)
FULL_PLAN: Final = Plan(rounds=21, samples=1000, limit=900, seconds=2.0)

CONCURRENCY: Final = 16
CHUNKS: Final = 100
_TURNS: Final = 2
_WARM_UP_SECONDS: Final = 0.3
_START_SECONDS: Final = 20.0
QUIET: Final = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Case:
    """One way from the load to the backend."""

    name: str
    target: str
    measured: Child
    """The process whose CPU is read."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds, and the calls or chunks they were used for."""

    seconds: float
    count: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.count + other.count)

    @property
    def us(self) -> float:
        """CPU microseconds for one."""
        return self.seconds * 1e6 / self.count


class Load:
    """The load generator's process, as one gives it orders."""

    def __init__(self, child: Child) -> None:
        self._child = child

    async def _order(self, **order: Any) -> Any:
        await self._child.write_line(json.dumps(order))
        return json.loads(await self._child.read_line())

    async def cost(self, case: Case, chunks: int, seconds: float) -> Cost:
        """Unary calls for `seconds`, or streams of `chunks` messages if that is not 0."""
        before = case.measured.cpu_seconds
        calls, messages = await self.calls(case.target, backend.MODEL, chunks, seconds)
        return Cost(case.measured.cpu_seconds - before, messages if chunks else calls)

    async def calls(self, target: str, model: str, chunks: int, seconds: float) -> tuple[int, int]:
        """As `cost`; the calls that were made, and the messages of their streams."""
        count = await self._order(
            order="calls", target=target, model=model, concurrency=CONCURRENCY, seconds=seconds, chunks=chunks
        )
        return count["calls"], count["chunks"]

    async def paced(self, target: str, model: str, tokens: int) -> tuple[int, Sequence[float]]:
        """Streams of tokens that are the times they were sent at; the messages they came in, and the delay of each
        token in milliseconds.
        """
        took = await self._order(order="paced", target=target, model=model, concurrency=CONCURRENCY, tokens=tokens)
        return took["messages"], took["delays_ms"]

    async def first_chunks_ms(self, cases: Sequence[Case], times: int) -> dict[str, list[float]]:
        """Milliseconds until the first chunk, by case; the cases in turn."""
        took = await self._order(order="first_chunks", targets=[case.target for case in cases], times=times)
        return {case.name: took[case.target] for case in cases}


Rounds = Mapping[str, list[float]]
"""CPU microseconds by case, one number a round."""


async def measure(plan: Plan, folder: Path) -> Result:
    """Run the benchmark with its files in `folder`. The result has exactly the keys of KEYS."""
    async with _cases(folder) as (load, cases):
        plan.say("warming up")
        calls: Rounds = {case.name: [] for case in cases}
        chunks: Rounds = {case.name: [] for case in cases}
        await _round(load, cases, 0, _WARM_UP_SECONDS)
        for number in range(plan.rounds):
            plan.say(f"round {number + 1} of {plan.rounds}")
            turn = number % len(cases)
            order = [*cases[turn:], *cases[:turn]]
            for rounds, size in ((calls, 0), (chunks, CHUNKS)):
                for name, us in (await _round(load, order, size, plan.seconds)).items():
                    rounds[name].append(us)
        plan.say("time to the first chunk")
        took = await load.first_chunks_ms([case for case in cases if case.name != "null"], plan.samples)
    return _result(calls, chunks, took)


async def _round(load: Load, cases: Sequence[Case], chunks: int, seconds: float) -> Mapping[str, float]:
    """CPU microseconds by case, each loaded for `seconds` in all.

    The cases take many short turns, so that whatever else the machine does meets them all alike. What is lost to the
    clock's tick in one turn is found in the next: between its turns a process does nothing.
    """
    costs = {case.name: Cost(0.0, 0) for case in cases}
    for turn in range(_TURNS):
        for case in cases if turn % 2 else reversed(cases):
            costs[case.name] += await load.cost(case, chunks, seconds / _TURNS)
    return {name: cost.us for name, cost in costs.items()}


@asynccontextmanager
async def _cases(folder: Path) -> AsyncGenerator[tuple[Load, Sequence[Case]]]:
    provider = {"provider_id": backend.PROVIDER, "provider_type": backend.PROVIDER_TYPE}
    file = mesh.write(folder, [{"model_id": backend.MODEL}], [provider])
    async with AsyncExitStack() as stack:
        middle, around = cores(os.sched_getaffinity(0))

        async def start(name: str, *arguments: str, talks: bool = True, cpus: Collection[int] = around) -> Child:
            return await stack.enter_async_context(running(name, *arguments, folder=folder, talks=talks, cpus=cpus))

        registry = await start("registry", "registry_service", "--config", str(file.path), talks=False)
        gateway = await start("gateway", "gateway", "--config", str(file.path), talks=False, cpus=middle)
        instance = await start("backend", "benchmarks.backend", file.registry)
        address = await instance.read_line()
        bare = await start("bare proxy", "benchmarks.bare_proxy", address, cpus=middle)
        null = await start("second bare proxy", "benchmarks.bare_proxy", address, cpus=middle)
        load = await start("load", "benchmarks.load")
        cases = [
            Case("direct", address, instance),
            Case("bare", await bare.read_line(), bare),
            Case("null", await null.read_line(), null),
            Case("python", file.gateway, gateway),
        ]
        hello = requests.chat(backend.MODEL, "hello", 1)
        await mesh.first_chunk(file.gateway, hello, _START_SECONDS, [registry, gateway, instance])
        yield Load(load), cases


def cores(allowed: Collection[int]) -> tuple[Collection[int], Collection[int]]:
    """One core for what is measured, the rest for what is around it; a single one is shared."""
    first, *rest = sorted(allowed)
    return (first,), rest or (first,)


def _result(calls: Rounds, chunks: Rounds, took: Mapping[str, Sequence[float]]) -> Result:
    null_ratio = _ratio(calls, "bare", "null")
    added = [through - direct for through, direct in zip(took["python"], took["direct"], strict=True)]
    low, high = QUIET
    return {
        "python.call_ratio": _ratio(calls, "python", "bare"),
        "python.chunk_ratio": _ratio(chunks, "python", "bare"),
        "null.call_ratio": null_ratio,
        "null.chunk_ratio": _ratio(chunks, "bare", "null"),
        "ttft_added_ms_p50": round(median(added), 3),
        "unstable": not low <= null_ratio <= high,
        **{f"{case}.call_us": round(median(us), 1) for case, us in calls.items()},
        **{f"{case}.chunk_us": round(median(us), 1) for case, us in chunks.items()},
        **{f"{case}.ttft_ms_p50": round(median(ms), 3) for case, ms in took.items()},
        "rounds": len(calls["bare"]),
        "concurrency": CONCURRENCY,
        "chunks_per_stream": CHUNKS,
    }


def _ratio(us: Rounds, over: str, under: str) -> float:
    """The median of the rounds' own ratios."""
    return round(median(a / b for a, b in zip(us[over], us[under], strict=True)), 3)
