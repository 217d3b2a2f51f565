"""Bytes from a thread that may block to a task that must not.

One wake-up of the event loop takes all that has arrived since the last: `call_soon_threadsafe` is called once for it,
not once a token. A reader that is slow stops the thread, and with it the reading of the socket.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import CancelledError
from typing import Final

TURN: Final = 4 * 1024
"""Bytes that a reader is given at once, if they come in pieces of less: some 30 tokens, then others have their turn."""
ROOM: Final = 64 * 1024
"""Bytes that may wait for the reader. The thread reads no more until there are fewer."""


class Pipe:
    """One thread puts, one task reads. No lock: each side writes counters of its own and reads the other's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, room: int = ROOM) -> None:
        self._loop = loop
        self._room = room
        self._pieces: deque[bytes] = deque()
        self._put = 0
        self._taken = 0
        self._told = False
        """Whether the loop has been told that there is something to take."""
        self._arrived = asyncio.Event()
        self._drained = threading.Event()
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None

    # The thread

    def put(self, piece: bytes) -> None:
        """Blocks while there is too much already. Raises CancelledError once nobody reads any more."""
        self._put += len(piece)
        self._pieces.append(piece)
        self._tell()
        while self._put - self._taken > self._room and not self._closed:
            self._drained.wait()
            self._drained.clear()
        if self._closed:
            raise CancelledError

    def end(self, error: BaseException | None = None) -> None:
        """There is no more; or what ended it."""
        self._error = error
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._loop.call_soon_threadsafe(self._arrived.set)

    # The task

    async def readany(self) -> bytes:
        """What has arrived, at least a byte; nothing at the end. Raises what ended it."""
        waited = False
        while True:
            self._told = False  # before looking: what is put from now on is told
            ended = self._ended  # before looking, too: whatever preceded the end is there
            if self._pieces:
                break
            if ended:
                if self._error is not None:
                    raise self._error
                return b""
            await self._arrived.wait()
            self._arrived.clear()
            waited = True
        if not waited:
            await asyncio.sleep(0)  # whoever has always something to read would let nobody else
        return self._take()

    def _take(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._pieces and size < TURN:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        full = self._put - self._taken > self._room
        self._taken += size
        if full:
            self._drained.set()
        return b"".join(taken)

    def close(self) -> None:
        """Nobody reads any more."""
        self._closed = True
        self._drained.set()
