"""How good the snapshot is: where it comes from and how old it is. Inspect tells it, and so do the gauges."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from gateway.snapshot import SnapshotView


class Freshness(Protocol):
    """When the registry was last heard. The reflector is one."""

    @property
    def age(self) -> float:
        """Seconds since then."""
        ...

    @property
    def stale(self) -> bool: ...


class Standing:
    """Of the latest snapshot of a view. `clock` is that of the file system."""

    def __init__(self, view: SnapshotView, freshness: Freshness, clock: Callable[[], float] = time.time) -> None:
        self._view = view
        self._freshness = freshness
        self._clock = clock

    @property
    def from_file(self) -> bool:
        """Whether it is the one that an earlier process left, for the registry has not been heard yet."""
        return self._view.snapshot is not None and self._view.snapshot.saved_at is not None

    @property
    def age(self) -> float:
        """Seconds since the registry was last heard, be it by the process that left the file; infinite if it never was.

        It is heard every few seconds; how far the snapshot lags behind it is another matter, which a miss settles.
        """
        snapshot = self._view.snapshot
        if snapshot is None:
            return math.inf
        if snapshot.saved_at is not None:
            return max(0.0, self._clock() - snapshot.saved_at)
        return self._freshness.age

    @property
    def stale(self) -> bool:
        """Whether it may be out of date."""
        return self.from_file or self._freshness.stale

    @property
    def doubt(self) -> str:
        """Why it may be out of date. Empty: it is not stale."""
        if self.from_file:
            return "the registry has not been reached yet; routing goes by the last good snapshot of an earlier process"
        if self._freshness.stale:
            return f"the registry has been silent for {self.age:.0f} s; routing goes on from what was known"
        return ""
