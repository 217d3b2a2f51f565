"""A small server of the OpenAI dialect over real sockets: models, chat, completions, embeddings, streams, errors.

By default it answers as a model would that always says `WORDS`. A test that wants something else sets `reply`:

    server.reply = failing(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})
    server.reply = streaming(event({"content": "Hel"}), STALL)

Each piece of a stream is a TCP segment of its own. An `asyncio.Event` among them waits until the test sets it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self, cast

WORDS = ("Hello", " there", "!")
USAGE = {"prompt_tokens": 11, "completion_tokens": len(WORDS), "total_tokens": 11 + len(WORDS)}


class Step(Enum):
    STALL = auto()
    """Send nothing more, until the client goes."""
    CUT = auto()
    """Reset the connection."""
    HANG_UP = auto()
    """Close the connection where it is, without the end of the answer."""


STALL, CUT, HANG_UP = Step
Piece = bytes | asyncio.Event | Step


@dataclass(slots=True)
class Reply:
    pieces: Sequence[Piece]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    streamed: bool = False


@dataclass(slots=True)
class Received:
    """One request, and what became of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Any
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """The client went before it had the whole answer."""
    blocked: asyncio.Event = field(default_factory=asyncio.Event)
    """The client does not read: no more could be written."""
    sent: int = 0
    """Bytes of the answer."""


def event(delta: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """One event of a chat stream, with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None, **more}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake", "choices": [choice]})


def data(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
FINISH = event(finish_reason="stop")
COUNTED = data({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
END = FINISH + COUNTED + DONE


def streaming(*pieces: Piece) -> Reply:
    return Reply(pieces, streamed=True, headers={"Content-Type": "text/event-stream"})


def whole(payload: Any) -> Reply:
    return Reply([json.dumps(payload).encode()], headers={"Content-Type": "application/json"})


def failing(status: int, payload: Any, headers: Mapping[str, str] | None = None) -> Reply:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Reply([body], status, headers or {})


class OpenAIServer:
    """`async with` starts and stops it."""

    def __init__(self, *models: str, key: str | None = None, port: int = 0) -> None:
        self.port = port
        self.models = list(models or ("fake-model",))
        self.key = key
        """What it wants as a bearer token."""
        self.reply: Reply | Callable[[Received], Reply] = self.speak
        """What it answers to anything but GET /v1/models."""
        self.listing: Reply | None = None
        """What it answers to GET /v1/models instead of `models`."""
        self.requests: list[Received] = []
        self.arrived = asyncio.Event()
        """Set when a request has come."""
        self.connections = 0
        """How many were made."""
        self.close_after_answer = False
        """Whether it closes connections after each answer without having said so."""
        self._open: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}/v1"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for connection in tuple(self._open):
            await connection.close()
        await self._server.wait_closed()

    def asked(self, path: str) -> list[Received]:
        """The requests for one path."""
        return [request for request in self.requests if request.path == path]

    @property
    def last(self) -> Received:
        return self.requests[-1]

    def answer(self, request: Received) -> Reply:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return failing(401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}})
        if request.path == "/v1/models":
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
            return self.listing or whole(listed)
        return self.reply(request) if callable(self.reply) else self.reply

    def speak(self, request: Received) -> Reply:
        """As a model would."""
        match request.path, request.body.get("stream", False):
            case "/v1/chat/completions", True:
                role = event({"role": "assistant", "content": ""})
                return streaming(role, *(event({"content": word}) for word in WORDS), FINISH, COUNTED, DONE)
            case "/v1/chat/completions", False:
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(WORDS)},
                    "finish_reason": "stop",
                }
                return whole({"object": "chat.completion", "choices": [choice], "usage": USAGE})
            case "/v1/completions", True:
                texts = [data({"choices": [{"index": 0, "text": word, "finish_reason": None}]}) for word in WORDS]
                finish = data({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
                return streaming(*texts, finish, COUNTED, DONE)
            case "/v1/completions", False:
                choice = {"index": 0, "text": "".join(WORDS), "finish_reason": "length", "logprobs": None}
                return whole({"object": "text_completion", "choices": [choice], "usage": USAGE})
            case "/v1/embeddings", _:
                vectors = [
                    {"index": i, "embedding": [float(len(text)), 0.5]} for i, text in enumerate(request.body["input"])
                ]
                return whole(
                    {"object": "list", "data": vectors[::-1], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
                )
            case _:
                return failing(404, {"detail": "Not Found"})


class _Connection(asyncio.Protocol):
    """One connection, answering one request after the other."""

    def __init__(self, server: OpenAIServer) -> None:
        self._server = server
        self._buffer = b""
        self._current: Received | None = None
        self._serving: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections += 1
        self._server._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server._open.discard(self)
        if self._current is not None:
            self._current.disconnected.set()
        if self._serving is not None:
            self._serving.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()
        if self._current is not None:
            self._current.blocked.set()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._current is None and (request := self._parse()) is not None:
            self._current = request
            self._server.requests.append(request)
            self._server.arrived.set()
            self._serving = asyncio.create_task(self._serve(request))

    def _parse(self) -> Received | None:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return None
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", 0))
        if len(rest) < size:
            return None
        self._buffer = rest[size:]
        method, path, _ = first.split(" ")
        return Received(method, path, headers, json.loads(rest[:size]) if size else {})

    async def _serve(self, request: Received) -> None:
        reply = self._server.answer(request)
        if await self._write(request, reply):
            self._current = None
            if self._server.close_after_answer:
                self._transport.close()

    async def _write(self, request: Received, reply: Reply) -> bool:
        """Whether the answer is whole."""
        pieces = list(reply.pieces)
        if pieces and not isinstance(pieces[0], bytes) and await self._step(pieces.pop(0)):
            return False
        length = {} if reply.streamed else {"Content-Length": str(sum(len(p) for p in pieces if isinstance(p, bytes)))}
        headers = {**reply.headers, **({"Transfer-Encoding": "chunked"} if reply.streamed else length)}
        lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers.items())]
        await self._send(request, "\r\n".join([*lines, "", ""]).encode())
        for piece in pieces:
            if isinstance(piece, bytes):
                await self._send(request, b"%x\r\n%s\r\n" % (len(piece), piece) if reply.streamed else piece)
            elif await self._step(piece):
                return False
        if reply.streamed:
            self._transport.write(b"0\r\n\r\n")
        return True

    async def _step(self, step: asyncio.Event | Step) -> bool:
        """Whether it ends the answer."""
        match step:
            case asyncio.Event():
                await step.wait()
                return False
            case Step.CUT:
                self._transport.abort()
            case Step.HANG_UP:
                self._transport.close()
            case Step.STALL:
                pass
        return True

    async def _send(self, request: Received, segment: bytes) -> None:
        await self._writable.wait()
        self._transport.write(segment)
        request.sent += len(segment)
        await asyncio.sleep(0)  # the socket takes it before the next one is written

    async def close(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        self._transport.abort()
