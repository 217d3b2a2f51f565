"""How late an event loop is while it does something: 0 on an idle machine whose loop is never blocked."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable
from contextlib import aclosing

from services.inference.provider import InferenceProvider
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.tasks import background
from tests.contracts.inference_provider.subject import user

TICK = 0.002
TOKEN_SECONDS = 0.05
"""Between two tokens of a stream."""


async def lag_p99(doing: Awaitable[object]) -> float:
    """The 99th percentile of how many seconds too late the loop came to a timer, set every 2 ms, while `doing`."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            due = time.monotonic() + TICK
            await asyncio.sleep(TICK)
            late.append(time.monotonic() - due)

    async with background(tick(), "ticks", vital=False):
        await doing
    return statistics.quantiles(late, n=100)[98]


async def read_streams(provider: InferenceProvider, model: str, count: int) -> None:
    """Read so many streams of 40 tokens at once."""
    request = pb.ChatCompletionRequest(
        model_id=model,
        messages=[user("Tell me about a river.")],
        sampling_params=pb.SamplingParams(max_tokens=40),
    )

    async def one(number: int) -> int:
        await asyncio.sleep(number * TOKEN_SECONDS / count)  # their tokens come one after the other, not all at once
        async with aclosing(await provider.stream_chat_completion(request)) as chunks:
            return sum([len(chunk.event.text) async for chunk in chunks])

    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        streams = [group.create_task(one(number)) for number in range(count)]
    assert len({stream.result() for stream in streams}) == 1, "all say the same"
    assert streams[0].result() > 0
