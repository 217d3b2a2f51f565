"""A server of the OpenAI dialect that costs as little as it can: answers made beforehand, a request read for two words.

    python -m benchmarks.openai_backend 20

It serves two models. The streams of `fast` come as fast as the socket takes them; those of `paced` bring so many tokens
a second, and each token is the time it was sent at (time.monotonic_ns, which all processes of a machine share). A
stream has `max_tokens` tokens. Each is an event, an HTTP chunk and a write of its own, and after each the other streams
have their turn. It prints its url, then answers each line on stdin with the number of paced tokens sent since the line
before, and runs until its stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import uvloop

FAST: Final = "fast"
PACED: Final = "paced"

_LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_WORD: Final = " word"
_SAME: Final = {"id": "chatcmpl-5d2f2d70f0b34c4e8d3c0f6f1d5a7b9e", "created": 1767225600, "model": FAST}


def _answer(body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(data), data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(choices: list[Any], **more: Any) -> bytes:
    body = {**_SAME, "object": "chat.completion.chunk", "choices": choices, **more}
    return _chunk(b"data: " + json.dumps(body).encode() + b"\n\n")


def _said(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """As vLLM writes it."""
    return _event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


def _end(tokens: int) -> bytes:
    used = {"prompt_tokens": 60, "completion_tokens": tokens, "total_tokens": 60 + tokens}
    return _said({}, "stop") + _event([], usage=used) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


_MODELS: Final = _answer({"object": "list", "data": [{"id": name, "object": "model"} for name in (FAST, PACED)]})
_MESSAGE: Final[Mapping[str, Any]] = {"role": "assistant", "content": _WORD * 50, "tool_calls": []}
_WHOLE: Final = _answer(
    {
        **_SAME,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 60, "completion_tokens": 50, "total_tokens": 110},
    }
)
_BEGIN: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    + _said({"role": "assistant", "content": ""})
)
_TOKEN: Final = _said({"content": _WORD})


class Pace:
    """How fast tokens come, and how many have come."""

    def __init__(self, tokens_per_second: float) -> None:
        self._seconds = 1 / tokens_per_second
        self._sent = 0

    async def next(self) -> bytes:
        """A token, when the time for it has come."""
        await asyncio.sleep(self._seconds)
        self._sent += 1
        return _said({"content": f" {time.monotonic_ns()}"})

    def take(self) -> int:
        """The tokens since this was last asked."""
        sent, self._sent = self._sent, 0
        return sent


class Connection(asyncio.Protocol):
    """One client's connection: its requests come one at a time, each after the answer to the one before."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._received = b""
        self._stream: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        if self._stream is not None:
            self._stream.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not ended or len(body) < (int(found[1]) if found else 0):
            return
        self._received = b""
        if head.startswith(b"GET"):
            self._transport.write(_MODELS)
            return
        asked = json.loads(body)
        if asked.get("stream"):
            self._stream = asyncio.create_task(self._say(asked["model"], asked["max_tokens"]))
        else:
            self._transport.write(_WHOLE)

    async def _say(self, model: str, tokens: int) -> None:
        write = self._transport.write
        write(_BEGIN)
        for _ in range(tokens):
            if model == PACED:
                write(await self._pace.next())
            else:
                write(_TOKEN)
                await asyncio.sleep(0)
        write(_end(tokens))


async def main(tokens_per_second: float) -> None:
    pace = Pace(tokens_per_second)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(pace), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        print(f"http://{host}:{port}/v1", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(pace.take(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1])))
