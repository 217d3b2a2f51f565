"""What the adapter of a remote server costs: CPU per token and per call, and how late a token is.

    load ------> gateway -> service --------> openai_backend     service: the inference process, a vLLM provider
    load ------> gateway -> second service -> openai_backend     null: a second copy of it
    http_load -> LiteLLM -------------------> openai_backend     with --litellm VENV

The cases in turn within every round, and in another order each round: 16 callers who call again as soon as they were
answered, unary and then in streams of 100 tokens that come as fast as the socket takes them. CPU is read from the
clocks of the processes while no call is under way, so it holds on a busy machine. The services and LiteLLM, of which
one works at a time, have a core for themselves; the others, the gateway too, share the rest.

Afterwards 16 streams bring 20 tokens a second each. Then every token has to leave at once: each is a message of its
own, and was sent by the backend `token_delay_ms` before the client had it.

    python -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]'
    python -m benchmarks.run adapter --litellm /tmp/litellm
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import litellm_proxy, mesh, requests
from benchmarks.gateway import CONCURRENCY, QUIET, Load, cores
from benchmarks.openai_backend import FAST, PACED
from benchmarks.plan import Plan, Result
from benchmarks.processes import Child, running

KEYS: Final[Mapping[str, str]] = {
    "service.us_per_token": "CPU microseconds of the inference service per streamed token, at saturation; target <= 30",
    "service.us_per_call": "CPU microseconds of the inference service per unary call; target <= 1500",
    "paced.tokens": "tokens the backend sent at its pace",
    "paced.messages": "messages with text the clients received; target: the same number",
    "token_delay_ms_p50": "ms from the backend's sending of a token to the client's receipt, at that pace; target <= 4",
    "token_delay_ms_p99": "the same, the 99th percentile",
    "litellm.call_ratio": "gateway and service / LiteLLM, CPU per unary call; target <= 0.15; with --litellm only",
    "litellm.stream_ratio": "gateway and service / LiteLLM, CPU per stream; target <= 0.04; with --litellm only",
    "null.token_ratio": "a second copy of the service / the service, CPU per token; 1 on a quiet machine",
    "null.call_ratio": "the same per unary call",
    "unstable": "true when null.call_ratio leaves 0.9 to 1.1: measure again on a quieter machine",
    "tokens_per_message": "how many were sent on together, at saturation",
    "gateway.us_per_token": "CPU microseconds of the gateway per token, at saturation",
    "gateway.us_per_call": "CPU microseconds of the gateway per unary call",
    "mesh.us_per_stream": "CPU microseconds of gateway and service per stream, at saturation",
    "mesh.us_per_call": "CPU microseconds of gateway and service per unary call",
    "litellm.us_per_stream": "CPU microseconds of LiteLLM per stream; with --litellm only",
    "litellm.us_per_call": "CPU microseconds of LiteLLM per unary call; with --litellm only",
    "litellm.version": "what was compared with; with --litellm only",
    "paced.us_per_token": "CPU microseconds of the service per token, each a message of its own",
    "rounds": "interleaved rounds; figures are medians over them",
    "concurrency": "callers of the closed loop, and streams at the pace",
    "tokens_per_stream": "of the streams at saturation; opening a stream is part of what its tokens cost",
    "tokens_per_second": "the pace of each stream",
}
"""Every key that the result may have, and what it means."""

CHOICES: Final[Mapping[str, Sequence[str]]] = {}
VENVS: Final[Mapping[str, str]] = {"litellm": "a virtual environment that has litellm[proxy]; measures that too"}

PLAN: Final = Plan(rounds=9, samples=0, limit=180, seconds=0.45, tokens=60)
FULL_PLAN: Final = Plan(rounds=21, samples=0, limit=1800, seconds=2.0, tokens=600)

TOKENS: Final = 100
PACE: Final = 20.0
_TURNS: Final = 2
_WARM_UP_SECONDS: Final = 0.3
_START_SECONDS: Final = 20.0

_FIRST, _SECOND, _PACED = "bench", "bench-null", "bench-paced"
"""The models of the mesh: two of the first service, and the second's in the middle."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way from a load to the backend."""

    name: str
    load: Load
    target: str
    model: str
    measured: Mapping[str, Child]
    """The processes whose CPU is read."""

    def cpu_seconds(self) -> Mapping[str, float]:
        return {name: child.cpu_seconds for name, child in self.measured.items()}


@dataclass(slots=True)
class Used:
    """CPU seconds by process, and what they were used for."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    calls: int = 0
    messages: int = 0

    async def add(self, case: Case, tokens: int, seconds: float) -> None:
        """Unary calls for `seconds`, or streams of `tokens` if that is not 0."""
        before = case.cpu_seconds()
        calls, messages = await case.load.calls(case.target, case.model, tokens, seconds)
        for name, after in case.cpu_seconds().items():
            self.seconds[name] = self.seconds.get(name, 0.0) + after - before[name]
        self.calls += calls
        self.messages += messages

    @property
    def us_per_call(self) -> Mapping[str, float]:
        return {name: seconds * 1e6 / self.calls for name, seconds in self.seconds.items()}


Rounds = Mapping[str, list[Used]]
"""By case, one a round."""


@dataclass(frozen=True, slots=True)
class Paced:
    """What came of the streams at the pace."""

    tokens: int
    messages: int
    delays_ms: Sequence[float]
    us_per_token: float


async def measure(plan: Plan, folder: Path) -> Result:
    """Run the benchmark with its files in `folder`. The result has the keys of KEYS; LiteLLM's, if it was measured."""
    version = litellm_proxy.version(plan.litellm) if plan.litellm is not None else None
    async with _cases(plan, folder) as (cases, backend):
        plan.say("warming up")
        for case in cases:
            for tokens in (0, TOKENS):
                await Used().add(case, tokens, _WARM_UP_SECONDS)
        calls: Rounds = {case.name: [] for case in cases}
        streams: Rounds = {case.name: [] for case in cases}
        for number in range(plan.rounds):
            plan.say(f"round {number + 1} of {plan.rounds}")
            turn = number % len(cases)
            order = [*cases[turn:], *cases[:turn]]
            for rounds, tokens in ((calls, 0), (streams, TOKENS)):
                for name, used in (await _round(order, tokens, plan.seconds)).items():
                    rounds[name].append(used)
        plan.say(f"{CONCURRENCY} streams at {PACE:g} tokens a second")
        paced = await _paced(cases[0], backend, plan.tokens)
    compared = {} if version is None else {**_compared(calls, streams), "litellm.version": version}
    return {**_result(calls, streams, paced), **compared}


async def _round(cases: Sequence[Case], tokens: int, seconds: float) -> Mapping[str, Used]:
    """What each case used, loaded for `seconds` in all: in several turns, so that whatever else the machine does meets
    them all alike.
    """
    used = {case.name: Used() for case in cases}
    for turn in range(_TURNS):
        for case in cases if turn % 2 else reversed(cases):
            await used[case.name].add(case, tokens, seconds / _TURNS)
    return used


async def _paced(case: Case, backend: Child, tokens: int) -> Paced:
    await _tokens_sent(backend)
    before = case.measured["service"].cpu_seconds
    messages, delays_ms = await case.load.paced(case.target, _PACED, tokens)
    seconds = case.measured["service"].cpu_seconds - before
    sent = await _tokens_sent(backend)
    return Paced(sent, messages, delays_ms, seconds * 1e6 / sent)


async def _tokens_sent(backend: Child) -> int:
    """Since this was last asked."""
    await backend.write_line("")
    return int(await backend.read_line())


@asynccontextmanager
async def _cases(plan: Plan, folder: Path) -> AsyncGenerator[tuple[Sequence[Case], Child]]:
    """The ways to the backend, the service's first; and the backend."""
    async with AsyncExitStack() as stack:
        middle, around = cores(os.sched_getaffinity(0))

        async def start(name: str, *arguments: str, talks: bool = False, cpus: Collection[int] = around) -> Child:
            return await stack.enter_async_context(running(name, *arguments, folder=folder, talks=talks, cpus=cpus))

        backend = await start("backend", "benchmarks.openai_backend", str(PACE), talks=True)
        url = await backend.read_line()
        file, (first, second) = _write_mesh(folder, url)
        registry = await start("registry", "registry_service", "--config", str(file.path))
        gateway = await start("gateway", "gateway", "--config", str(file.path))
        service = await start("service", "services.inference", "--config", str(first), cpus=middle)
        null = await start("second service", "services.inference", "--config", str(second), cpus=middle)
        load = Load(await start("load", "benchmarks.load", talks=True))
        cases = [
            Case("service", load, file.gateway, _FIRST, {"gateway": gateway, "service": service}),
            Case("null", load, file.gateway, _SECOND, {"null": null}),
        ]
        if plan.litellm is not None:
            plan.say("starting LiteLLM")
            its_load = Load(await start("load of LiteLLM", "benchmarks.http_load", talks=True))
            opened = litellm_proxy.running_proxy(plan.litellm, url, FAST, folder, middle)
            proxy, address = await stack.enter_async_context(opened)
            cases.append(Case("litellm", its_load, address, FAST, {"litellm": proxy}))
        for model in (_FIRST, _SECOND, _PACED):
            hello = requests.chat(model, "hello", 1)
            await mesh.first_chunk(file.gateway, hello, _START_SECONDS, [registry, gateway, service, null])
        yield cases, backend


def _write_mesh(folder: Path, url: str) -> tuple[mesh.MeshFile, Sequence[Path]]:
    """The mesh's file, and the file of each of its two services."""
    providers = [
        {"provider_id": name, "provider_type": "remote::vllm", "config": {"url": url}} for name in ("first", "second")
    ]
    models = [
        {"model_id": _FIRST, "provider_id": "first", "provider_model_id": FAST},
        {"model_id": _PACED, "provider_id": "first", "provider_model_id": PACED},
        {"model_id": _SECOND, "provider_id": "second", "provider_model_id": FAST},
    ]
    file = mesh.write(folder, models, providers)
    return file, [mesh.write_hosting(file, provider) for provider in providers]


def _result(calls: Rounds, streams: Rounds, paced: Paced) -> Result:
    null_ratio = _ratio(_us(calls, "null"), _us(calls, "service"))
    low, high = QUIET
    return {
        "service.us_per_token": round(median(_us(streams, "service")) / TOKENS, 1),
        "service.us_per_call": round(median(_us(calls, "service")), 1),
        "paced.tokens": paced.tokens,
        "paced.messages": paced.messages,
        "token_delay_ms_p50": round(median(paced.delays_ms), 3),
        "token_delay_ms_p99": round(_p99(paced.delays_ms), 3),
        "null.token_ratio": _ratio(_us(streams, "null"), _us(streams, "service")),
        "null.call_ratio": null_ratio,
        "unstable": not low <= null_ratio <= high,
        "tokens_per_message": round(median(TOKENS * used.calls / used.messages for used in streams["service"]), 1),
        "gateway.us_per_token": round(median(_us(streams, "service", "gateway")) / TOKENS, 1),
        "gateway.us_per_call": round(median(_us(calls, "service", "gateway")), 1),
        "mesh.us_per_stream": round(median(_mesh_us(streams)), 1),
        "mesh.us_per_call": round(median(_mesh_us(calls)), 1),
        "paced.us_per_token": round(paced.us_per_token, 1),
        "rounds": len(calls["service"]),
        "concurrency": CONCURRENCY,
        "tokens_per_stream": TOKENS,
        "tokens_per_second": PACE,
    }


def _compared(calls: Rounds, streams: Rounds) -> Result:
    return {
        "litellm.call_ratio": _ratio(_mesh_us(calls), _us(calls, "litellm")),
        "litellm.stream_ratio": _ratio(_mesh_us(streams), _us(streams, "litellm")),
        "litellm.us_per_call": round(median(_us(calls, "litellm")), 1),
        "litellm.us_per_stream": round(median(_us(streams, "litellm")), 1),
    }


def _us(rounds: Rounds, case: str, process: str = "") -> Sequence[float]:
    """CPU microseconds per call of the process that the case is named after, or of another one; each round's."""
    return [used.us_per_call[process or case] for used in rounds[case]]


def _mesh_us(rounds: Rounds) -> Sequence[float]:
    """As `_us`, of gateway and service together."""
    return [sum(used.us_per_call.values()) for used in rounds["service"]]


def _ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the rounds' own ratios."""
    return round(median(a / b for a, b in zip(over, under, strict=True)), 4)


def _p99(values: Sequence[float]) -> float:
    """By nearest rank."""
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]
