"""A TCP proxy that cuts, stalls, delays and refuses."""

from __future__ import annotations

import asyncio
from typing import Final, Self

_CHUNK: Final = 64 * 1024


class TcpProxy:
    """Forwards to `upstream`, a HOST:PORT that may be exchanged; new connections go to the new one."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.accepted = 0
        """Connections so far."""
        self.received = 0
        """Bytes that came from upstream."""
        self._port = 0
        self._delay = 0.0
        self._cut_at: int | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.refuse()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            connection.cancel()

    def cut_after(self, count: int) -> None:
        """Close every connection, once, when `count` more bytes have come from upstream; those are still delivered."""
        self._cut_at = self.received + count

    def stall(self) -> None:
        """From now on accept, and forward nothing."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward what was held, and all that follows."""
        self._flowing.set()

    def delay(self, seconds: float) -> None:
        """Hold each piece for so long before it is forwarded."""
        self._delay = seconds

    async def refuse(self) -> None:
        """Close every connection and refuse new ones, as a machine does on which nothing listens."""
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._connections:
            self.cut()
            await asyncio.wait(self._connections)

    async def accept(self) -> None:
        """The opposite of `refuse`, at the same address."""
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, reuse_address=True)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._flowing.wait()
            host, _, port = self.upstream.rpartition(":")
            up_reader, up_writer = await asyncio.open_connection(host, int(port))
            writers.append(up_writer)
            ways = [
                asyncio.create_task(self._pump(reader, up_writer, upstream=False)),
                asyncio.create_task(self._pump(up_reader, writer, upstream=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except OSError:
            pass  # upstream is away, so the client's connection is closed
        finally:
            for open_writer in writers:
                open_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upstream: bool) -> None:
        try:
            while data := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                writer.write(self._counted(data) if upstream else data)
                await writer.drain()
                if upstream and self._cut_at is not None and self.received >= self._cut_at:
                    self._cut_at = None
                    writer.close()  # flushes, where abort would not
                    self.cut()
        except ConnectionError:
            return

    def _counted(self, data: bytes) -> bytes:
        if self._cut_at is not None:
            data = data[: max(0, self._cut_at - self.received)]
        self.received += len(data)
        return data
