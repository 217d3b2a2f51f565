"""What the mesh costs a model: tokens per second, how fast a cancelled call stops, how fast the mesh starts.

`stackmesh up` runs twice in one folder: the first time prepares it, the second is timed, and then measured. The same
prompt is answered in turn by the mesh and by a process that runs llama.cpp alone with the provider's own settings;
both go on to the last token asked for (`ignore_eos`), and both counts are checked. benchmarks/cancel.py says how
cancelling is timed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc

from benchmarks import cancel, mesh, requests
from benchmarks.plan import Plan, Result
from benchmarks.processes import BenchmarkError, Child, running
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from stackmesh.transport import CLIENT_CHANNEL

KEYS: Final[Mapping[str, str]] = {
    "tokens_per_s_ratio": "mesh / llama.cpp alone, generated tokens per second; target >= 0.85",
    "cancel_ms_p99": "ms from a client's cancel until the model is free for the next call; target <= 400",
    "up_to_first_token_s": "s from the second `stackmesh up` to the first streamed token; target <= 8",
    "mesh.tokens_per_s": "through the mesh, one stream, seen by its client",
    "alone.tokens_per_s": "llama.cpp alone, one stream, timed in its own process",
    "cancel_prompt_ms_p50": "ms, cancelled while the prompt is read",
    "cancel_decode_ms_p50": "ms, cancelled while tokens are generated",
    "next_token_ms_p50": "ms to the first token of the short call on an idle mesh; taken off the three above",
    "rounds": "interleaved rounds; figures are medians over them",
    "tokens_per_answer": "generated tokens of each answer, the same number on both sides",
    "threads": "of llama.cpp, on both sides",
    "slots": "of llama.cpp, on both sides",
    "batch": "tokens of a prompt read at once, on both sides",
}
"""Every key of the result and what it means."""

CHOICES: Final[Mapping[str, Sequence[str]]] = {}
VENVS: Final[Mapping[str, str]] = {}

PLAN: Final = Plan(rounds=7, samples=20, limit=60, tokens=96)
FULL_PLAN: Final = Plan(rounds=21, samples=200, limit=900, tokens=256)

MODEL: Final = "smollm2-135m-instruct"
_SETTINGS: Final = {"model": MODEL, "n_parallel": 1, "ignore_eos": True}
"""Of the provider and of llama.cpp alone. Whatever is not named is the provider's default on both sides."""
_WARM_UP_TOKENS: Final = 4
_UP_SECONDS: Final = 40.0
_CALL_SECONDS: Final = 30.0


async def measure(plan: Plan, folder: Path) -> Result:
    """Run the benchmark with its files in `folder`. The result has exactly the keys of KEYS."""
    provider = {"provider_id": "local", "provider_type": "inline::llamacpp", "config": _SETTINGS}
    file = mesh.write(folder, [{"model_id": MODEL}], [provider])
    plan.say("stackmesh up, the first time")
    async with _up("first up", file):
        pass
    plan.say("stackmesh up, the second time")
    async with AsyncExitStack() as stack:
        up_seconds = await stack.enter_async_context(_up("second up", file))
        plan.say("loading the model alone")
        alone = await stack.enter_async_context(
            running("llama.cpp alone", "benchmarks.bare_model", json.dumps(_SETTINGS), folder=folder, talks=True)
        )
        settings = json.loads(await alone.read_line())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(file.gateway, options=CLIENT_CHANNEL))
        stub = InferenceServiceStub(channel)
        speeds = await _speeds(plan, stub, alone)
        plan.say("cancelling")
        cancels = await cancel.measure(stub, MODEL, plan.samples)
    return {
        "tokens_per_s_ratio": round(median(a / b for a, b in zip(speeds.mesh, speeds.alone, strict=True)), 3),
        "cancel_ms_p99": round(_percentile([*cancels.prompt, *cancels.decode], 99), 1),
        "up_to_first_token_s": round(up_seconds, 2),
        "mesh.tokens_per_s": round(median(speeds.mesh), 1),
        "alone.tokens_per_s": round(median(speeds.alone), 1),
        "cancel_prompt_ms_p50": round(median(cancels.prompt), 1),
        "cancel_decode_ms_p50": round(median(cancels.decode), 1),
        "next_token_ms_p50": round(median(cancels.idle), 1),
        "rounds": plan.rounds,
        "tokens_per_answer": plan.tokens,
        **settings,
    }


@asynccontextmanager
async def _up(name: str, file: mesh.MeshFile) -> AsyncGenerator[float]:
    """`stackmesh up`; gives the seconds from its start to the first token a client received."""
    begin = time.perf_counter()
    async with running(name, "stackmesh", "up", str(file.path), folder=file.path.parent) as up:
        await mesh.first_chunk(file.gateway, requests.chat(MODEL, "Say hello.", 1), _UP_SECONDS, [up])
        yield time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Speeds:
    """Generated tokens per second of the whole call, one number a round."""

    mesh: list[float]
    alone: list[float]


async def _speeds(plan: Plan, stub: InferenceServiceStub, alone: Child) -> Speeds:
    speeds = Speeds([], [])
    await _mesh_speed(stub, _WARM_UP_TOKENS)  # the prompt is known from now on, on both sides
    await _alone_speed(alone, _WARM_UP_TOKENS)
    for number in range(plan.rounds):
        plan.say(f"round {number + 1} of {plan.rounds}")
        if number % 2:
            speeds.mesh.append(await _mesh_speed(stub, plan.tokens))
        speeds.alone.append(await _alone_speed(alone, plan.tokens))
        if not number % 2:
            speeds.mesh.append(await _mesh_speed(stub, plan.tokens))
    return speeds


async def _mesh_speed(stub: InferenceServiceStub, tokens: int) -> float:
    begin = time.perf_counter()
    generated = 0
    stream: Any = stub.StreamChatCompletion(requests.chat(MODEL, requests.STORY, tokens), timeout=_CALL_SECONDS)
    async for chunk in stream:
        generated = chunk.event.usage.completion_tokens
    seconds = time.perf_counter() - begin
    _check("the mesh", generated, tokens)
    return tokens / seconds


async def _alone_speed(alone: Child, tokens: int) -> float:
    await alone.write_line(json.dumps({"said": requests.STORY, "max_tokens": tokens}))
    answer = json.loads(await alone.read_line())
    _check("llama.cpp alone", answer["tokens"], tokens)
    return tokens / answer["seconds"]


def _check(who: str, generated: int, tokens: int) -> None:
    if generated != tokens:
        raise BenchmarkError(f"{who} generated {generated} tokens where {tokens} were asked for")


def _percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank: with fewer than 100 values, the 99th is the largest."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]
