"""How long to wait before trying again: longer each time, never in step with others."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds: doubling from `first` to `limit`, each drawn between half and the whole of it."""

    def __init__(self, first: float = 0.1, limit: float = 5.0) -> None:
        self._first = first
        self._limit = limit
        self._next = first

    def delay(self) -> float:
        """The next delay."""
        delay = self._next * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load, guards nothing
        self._next = min(self._next * 2, self._limit)
        return delay

    def reset(self) -> None:
        """It worked: begin small again."""
        self._next = self._first
