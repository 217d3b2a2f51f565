"""An instance that refuses every stream: RST_STREAM with REFUSED_STREAM, which promises that nothing was processed.

HTTP/2 frames by hand (RFC 9113, section 4.1), since no gRPC server refuses on demand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final

from stackmesh.announcer import Announcer, announced
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.routes import Api
from stackmesh.transport import internal_channel
from tests.contracts.data_plane.backend import PROVIDER_TYPE

_PREFACE: Final = 24
_DATA, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0x0, 0x3, 0x4, 0x6, 0x8
_ACK = _END_STREAM = 0x1
_REFUSED_STREAM: Final = (7).to_bytes(4)


class Refuser:
    """Refuses each stream when it has ended or has sent `after` bytes."""

    def __init__(self, after: int) -> None:
        self.refused = 0
        self.received = 0
        """Bytes of all streams."""
        self.cancelled = 0
        """Streams that the other side reset."""
        self._after = after

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[str]:
        """Gives its address."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield "{}:{}".format(*server.sockets[0].getsockname())

    @asynccontextmanager
    async def running(self, registry: str, instance_id: str, provider_id: str, *served: str) -> AsyncGenerator[Refuser]:
        """Listening, and registered there."""
        report = ServedReport(
            api=Api.API_INFERENCE,
            provider_id=provider_id,
            provider_type=PROVIDER_TYPE,
            provider_resource_ids=served,
        )
        async with self.listening() as address, internal_channel(registry) as channel:
            async with announced(Announcer(channel, instance_id, address, lambda: [report])) as announcer:
                async with asyncio.timeout(20):
                    await announcer.wait_registered()
                yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got: dict[int, int] = {}
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readexactly(_PREFACE)
            writer.write(_frame(_SETTINGS))
            while True:
                head = await reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                if kind in (_SETTINGS, _PING) and not flags & _ACK:
                    writer.write(_frame(kind, _ACK, payload if kind == _PING else b""))
                elif kind == _RST_STREAM:
                    self.cancelled += 1
                elif kind == _DATA:
                    self.received += len(payload)
                    writer.write(_frame(_WINDOW_UPDATE, payload=max(len(payload), 1).to_bytes(4)))
                    if self._enough(got, stream, len(payload), over=bool(flags & _END_STREAM)):
                        self.refused += 1
                        writer.write(_frame(_RST_STREAM, payload=_REFUSED_STREAM, stream=stream))
        writer.close()

    def _enough(self, got: dict[int, int], stream: int, size: int, *, over: bool) -> bool:
        """Whether the stream is to be refused now; once only."""
        before = got.get(stream, 0)
        got[stream] = self._after if over else before + size
        return before < self._after <= got[stream]


def _frame(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload
