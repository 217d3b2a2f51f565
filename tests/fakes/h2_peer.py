"""A peer that speaks just enough HTTP/2 to fail a call in one way."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

REFUSED_STREAM = 7
_PREFACE = 24
_HEAD = 9
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 1, 3, 4, 6, 7
_ACK = 1

Misbehaviour = Callable[[asyncio.Transport, int], None]
"""What to do when a call's headers have come: (connection, stream id)."""


def reset(code: int) -> Misbehaviour:
    return lambda transport, stream: transport.write(_frame(_RST_STREAM, stream, struct.pack(">I", code)))


def goaway(last_stream: int, *, close: bool = False) -> Misbehaviour:
    def send(transport: asyncio.Transport, _stream: int) -> None:
        transport.write(_frame(_GOAWAY, 0, struct.pack(">II", last_stream, 0)))
        if close:
            transport.close()

    return send


def hang_up(transport: asyncio.Transport, _stream: int) -> None:
    transport.close()


def say_nothing(_transport: asyncio.Transport, _stream: int) -> None: ...


class Peer:
    """`calls` counts the headers that came. Without a misbehaviour it closes each connection at once."""

    def __init__(self, misbehaviour: Misbehaviour | None) -> None:
        self.calls = 0
        self.open: set[asyncio.Transport] = set()
        self.misbehaviour = misbehaviour

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """The address."""
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            server.close()
            async with asyncio.timeout(5):
                await asyncio.sleep(0)  # what was just accepted is open only now
                while self.open:
                    for transport in self.open:
                        transport.abort()
                    await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._unread = b""

    def connection_made(self, transport) -> None:
        self._transport = transport
        self._peer.open.add(transport)
        if self._peer.misbehaviour is None:
            transport.close()
        else:
            transport.write(_frame(_SETTINGS, 0, b""))
        self._skip = _PREFACE

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if self._skip and len(self._unread) >= self._skip:
            self._unread, self._skip = self._unread[self._skip :], 0
        while not self._skip and len(self._unread) >= _HEAD:
            end = _HEAD + int.from_bytes(self._unread[:3])
            if len(self._unread) < end:
                return
            frame, self._unread = self._unread[:end], self._unread[end:]
            self._frame_received(frame[3], frame[4], int.from_bytes(frame[5:_HEAD]), frame[_HEAD:])

    def _frame_received(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, 0, payload if kind == _PING else b"", flags=_ACK))
        elif kind == _HEADERS and self._peer.misbehaviour is not None:
            self._peer.calls += 1
            self._peer.misbehaviour(self._transport, stream)


def _frame(kind: int, stream: int, payload: bytes, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload
