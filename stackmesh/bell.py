"""Waking all who wait, again and again."""

from __future__ import annotations

import asyncio


class Bell:
    """Whoever waits when it rings is woken; who comes later waits until it rings again."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    @property
    def next(self) -> asyncio.Event:
        """Set when it rings the next time: taken before one looks, so that it cannot ring in between unheard."""
        return self._next

    async def wait(self) -> None:
        await self._next.wait()

    def ring(self) -> None:
        rung, self._next = self._next, asyncio.Event()
        rung.set()

    def __repr__(self) -> str:
        return "<Bell>"
