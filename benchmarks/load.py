"""The load generator: a process that calls, and counts what it was answered.

It reads one order a line from stdin and answers each with one line of JSON. Channels stay open between orders.

    {"order": "calls", "target": "127.0.0.1:8321", "model": "bench", "concurrency": 16, "seconds": 1.0, "chunks": 0}
        A closed loop: each of `concurrency` callers calls again as soon as it was answered. With `chunks` the calls
        are streams with that number as `max_tokens`, without they are unary. Answers when the last call has ended:
        {"calls": 812, "chunks": 0}
    {"order": "first_chunks", "targets": ["127.0.0.1:7001", "127.0.0.1:8321"], "times": 100}
        One stream after the other, the targets in turn. The milliseconds until the first message of each came:
        {"127.0.0.1:7001": [1.9, ...], "127.0.0.1:8321": [3.4, ...]}
    {"order": "paced", "target": "127.0.0.1:8321", "model": "paced", "concurrency": 16, "tokens": 100}
        So many streams at once, whose every token is the time it was sent at, as benchmarks.openai_backend writes them.
        The messages that had text, and the milliseconds from each token's sending to its message's receipt:
        {"messages": 1600, "delays_ms": [1.4, ...]}
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc
import uvloop

from benchmarks import requests
from benchmarks.backend import MODEL
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.transport import CLIENT_CHANNEL

CALL_SECONDS: Final = 20.0
_FIRST_OF: Final = 3
"""Messages of a stream whose first one is timed."""


@dataclass(slots=True)
class Count:
    calls: int = 0
    chunks: int = 0


class Load:
    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._channels: dict[str, Any] = {}

    async def obey(self, order: dict[str, Any]) -> object:
        match order.pop("order"):
            case "calls":
                return await self.calls(**order)
            case "first_chunks":
                return await self.first_chunks(**order)
            case "paced":
                return await self.paced(**order)
            case other:
                raise ValueError(f"there is no order {other!r}")

    async def calls(self, target: str, model: str, concurrency: int, seconds: float, chunks: int) -> object:
        count = Count()
        caller = self._stream if chunks else self._unary
        channel = await self._channel(target)
        request = requests.chat(model, requests.SAID, chunks).SerializeToString()
        end = time.perf_counter() + seconds
        await asyncio.gather(*(caller(channel, request, end, count) for _ in range(concurrency)))
        return {"calls": count.calls, "chunks": count.chunks}

    async def _unary(self, channel: Any, request: bytes, end: float, count: Count) -> None:
        call = channel.unary_unary(requests.CHAT)
        while time.perf_counter() < end:
            await call(request, timeout=CALL_SECONDS)
            count.calls += 1

    async def _stream(self, channel: Any, request: bytes, end: float, count: Count) -> None:
        start = channel.unary_stream(requests.STREAM_CHAT)
        while time.perf_counter() < end:
            read = start(request, timeout=CALL_SECONDS).read
            while await read() is not grpc.aio.EOF:
                count.chunks += 1
            count.calls += 1

    async def first_chunks(self, targets: Sequence[str], times: int) -> object:
        request = requests.chat(MODEL, requests.SAID, _FIRST_OF).SerializeToString()
        starts = {target: (await self._channel(target)).unary_stream(requests.STREAM_CHAT) for target in targets}
        took: dict[str, list[float]] = {target: [] for target in targets}
        for _ in range(times):
            for target in targets:
                begin = time.perf_counter()
                stream = starts[target](request, timeout=CALL_SECONDS)
                await stream.read()
                took[target].append((time.perf_counter() - begin) * 1000)
                while await stream.read() is not grpc.aio.EOF:
                    pass
        return took

    async def paced(self, target: str, model: str, concurrency: int, tokens: int) -> object:
        channel = await self._channel(target)
        start = channel.unary_stream(
            requests.STREAM_CHAT, response_deserializer=pb.StreamChatCompletionResponse.FromString
        )
        request = requests.chat(model, requests.SAID, tokens).SerializeToString()
        streams = [start(request, timeout=CALL_SECONDS + tokens) for _ in range(concurrency)]
        delays = await asyncio.gather(*map(delays_ms, streams))
        messages = [message for stream in delays for message in stream]
        return {"messages": len(messages), "delays_ms": [delay for message in messages for delay in message]}

    async def _channel(self, target: str) -> Any:
        if target not in self._channels:
            channel = grpc.aio.insecure_channel(target, options=CLIENT_CHANNEL)
            self._channels[target] = await self._stack.enter_async_context(channel)
        return self._channels[target]


async def delays_ms(stream: Any) -> list[list[float]]:
    """Of each message that has text, how long ago each of its tokens was sent."""
    delays: list[list[float]] = []
    while (message := await stream.read()) is not grpc.aio.EOF:
        now = time.monotonic_ns()
        if text := message.event.text:
            delays.append([(now - int(sent)) / 1e6 for sent in text.split()])
    return delays


async def main() -> None:
    async with AsyncExitStack() as stack:
        load = Load(stack)
        while order := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await load.obey(json.loads(order))), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
