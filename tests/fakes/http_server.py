"""A small HTTP/1.1 server over real sockets, which does to its clients whatever a test wants.

    server.reply = failing(429, {"error": {"message": "slow down"}}, {"Retry-After": "7"})
    server.reply = streaming(event({"content": "Hel"}), 0.5, STALL)

Each piece of a stream is a TCP segment of its own. An `asyncio.Event` among them waits until the test sets it, a number
so many seconds. The fakes of vendors' servers are subclasses that say how one answers by default.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, ClassVar, Self, cast


class Step(Enum):
    STALL = auto()
    """Send nothing more, until the client goes."""
    CUT = auto()
    """Reset the connection."""
    HANG_UP = auto()
    """Close the connection where it is, without the end of the answer."""


STALL, CUT, HANG_UP = Step
Piece = bytes | asyncio.Event | float | Step


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
    raw: bytes = b""
    """The body as it came."""
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    """The client went before it had the whole answer."""
    blocked: asyncio.Event = field(default_factory=asyncio.Event)
    """The client does not read: no more could be written."""
    sent: int = 0
    """Bytes of the answer."""


def streaming(*pieces: Piece) -> Reply:
    return Reply(pieces, streamed=True, headers={"Content-Type": "text/event-stream"})


def whole(payload: Any) -> Reply:
    return Reply([json.dumps(payload).encode()], headers={"Content-Type": "application/json"})


def failing(status: int, payload: Any, headers: Mapping[str, str] | None = None) -> Reply:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Reply([body], status, headers or {})


class HttpServer:
    """`async with` starts and stops it."""

    stream_type: ClassVar[str] = "text/event-stream"
    """The content type of its streams."""

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.reply: Reply | Callable[[Received], Reply] = self.speak
        """What it answers."""
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
        self.root = f"http://{self.host}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for connection in tuple(self._open):
            await connection.close()
        await self._server.wait_closed()

    def received(self, path: str) -> list[Received]:
        """The requests for one path."""
        return [request for request in self.requests if request.path == path]

    @property
    def last(self) -> Received:
        return self.requests[-1]

    @property
    def working(self) -> int:
        """How many requests have been neither answered in full nor left by their clients."""
        return sum(connection.busy for connection in self._open)

    def answer(self, request: Received) -> Reply:
        return self.reply(request) if callable(self.reply) else self.reply

    def speak(self, request: Received) -> Reply:
        """As the vendor's server would."""
        return failing(404, {"detail": "Not Found"})


class _Connection(asyncio.Protocol):
    """One connection, answering one request after the other."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._buffer = b""
        self._current: Received | None = None
        self._serving: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def busy(self) -> bool:
        return self._current is not None

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
        return Received(method, path, headers, json.loads(rest[:size]) if size else {}, rest[:size])

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

    async def _step(self, step: asyncio.Event | float | Step) -> bool:
        """Whether it ends the answer."""
        match step:
            case int() | float():
                await asyncio.sleep(step)
                return False
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
