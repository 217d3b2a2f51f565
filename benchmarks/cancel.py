"""How fast a cancelled call stops, seen by the next in the queue.

The model has one slot. A short call waits for it while a long one is cancelled: from the cancel to the short call's
first token, less what that token takes on an idle mesh, is when the model was free again. So it is an upper bound
that holds the whole way: client, gateway, service, llama.cpp.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from benchmarks import requests
from benchmarks.processes import BenchmarkError
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

_CALL_SECONDS: Final = 30.0
_IN_SLOT_SECONDS: Final = 0.1
"""After which a call to an idle mesh has its slot; reading the long prompt takes ten times as long."""
_IN_QUEUE_SECONDS: Final = 0.1
_LONG_ANSWER: Final = 1000
_LONG_PROMPT: Final = "word " * 500


@dataclass(slots=True)
class Cancels:
    """Milliseconds, one number a cancelled call."""

    prompt: list[float] = field(default_factory=list[float])
    decode: list[float] = field(default_factory=list[float])
    idle: list[float] = field(default_factory=list[float])
    """What the first token of the short call takes on an idle mesh."""


async def measure(stub: InferenceServiceStub, model: str, samples: int) -> Cancels:
    """Cancel `samples` calls, every other one while its prompt is read."""
    short = requests.completion(model, "1", 1)
    took = Cancels()
    for number in range(samples):
        begin = time.perf_counter()
        took.idle.append(await _first_token_ms(stub.StreamCompletion(short, timeout=_CALL_SECONDS), begin))
        if number % 2:
            said = f"{number} {_LONG_PROMPT}"  # no two begin alike, or what follows would be known already
            call = stub.StreamChatCompletion(requests.chat(model, said, 1), timeout=_CALL_SECONDS)
            took.prompt.append(await _cancelled_ms(stub, call, short))
        else:
            call = stub.StreamChatCompletion(requests.chat(model, requests.STORY, _LONG_ANSWER), timeout=_CALL_SECONDS)
            await _text(call)
            took.decode.append(await _cancelled_ms(stub, call, short))
    expected = median(took.idle)
    took.prompt = [ms - expected for ms in took.prompt]
    took.decode = [ms - expected for ms in took.decode]
    return took


async def _cancelled_ms(stub: InferenceServiceStub, call: Any, short: pb.CompletionRequest) -> float:
    """From the cancel of `call` to the first token of `short`, which waits behind it."""
    await asyncio.sleep(_IN_SLOT_SECONDS)
    waiting: Any = stub.StreamCompletion(short, timeout=_CALL_SECONDS)
    await asyncio.sleep(_IN_QUEUE_SECONDS)
    if call.done() or waiting.done():
        raise BenchmarkError("the short call did not wait for the long one: is there more than one slot?")
    begin = time.perf_counter()
    call.cancel()
    return await _first_token_ms(waiting, begin)


async def _first_token_ms(stream: Any, begin: float) -> float:
    took = 0.0
    async for chunk in stream:
        if chunk.delta and not took:
            took = (time.perf_counter() - begin) * 1000
    if not took:
        raise BenchmarkError("a call of one token was answered without text")
    return took


async def _text(call: Any) -> None:
    async for chunk in call:
        if chunk.event.WhichOneof("delta"):
            return
    raise BenchmarkError("a long answer had no text")
