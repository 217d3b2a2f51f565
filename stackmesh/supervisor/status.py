"""How a service is doing, as its supervisor sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """It died, and is started again after a pause."""
    FAILED = "failed"
    """It says that starting again is no use."""
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Status:
    """One service at one moment."""

    name: str
    state: State
    text: str = ""
    """What it says of itself, or why it is not running."""
    pid: int | None = None
    restarts: int = 0
    ready_since: float | None = None
    """When it became ready, in seconds of the monotonic clock."""


Observer = Callable[[Status], None]
"""Hears of every change."""


class StartFailed(Exception):
    """The mesh cannot start until somebody changes something. The message is the service's own."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.name}: {status.text}")
        self.status = status


class SupervisorFailed(Exception):
    """A service is not watched any more, by a fault of the supervisor's own, which has been logged."""

    def __init__(self, task: str) -> None:
        super().__init__(f"{task}: failed, see above")
