"""Shows the services to a person: a live table on a terminal, a line for each change anywhere else."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stackmesh.supervisor.status import State, Status

_STYLES = {
    State.STARTING: "yellow",
    State.READY: "green",
    State.RESTARTING: "red",
    State.FAILED: "bold red",
    State.STOPPING: "yellow",
    State.STOPPED: "dim",
}


class View(Protocol):
    def show(self, status: Status) -> None:
        """A service has changed."""
        ...

    def note(self, text: str) -> None:
        """Something about the mesh as a whole."""
        ...


class Lines:
    """One line for each change of state, and for each that who is ready says of itself."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, tuple[State, str]] = {}

    def show(self, status: Status) -> None:
        shown = status.state, status.text if status.state is State.READY else ""
        if self._shown.get(status.name) != shown:
            self._shown[status.name] = shown
            self._say(f"{status.name} {status.state}" + (f": {status.text}" if status.text else ""))

    def note(self, text: str) -> None:
        self._say(text)

    def _say(self, line: str) -> None:
        now = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(Text(f"{now} {line}"), soft_wrap=True)


class Board:
    """A table that stays in place, with what concerns the whole mesh below it."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._note = ""

    def show(self, status: Status) -> None:
        self._statuses[status.name] = status

    def note(self, text: str) -> None:
        self._note = text

    def __rich__(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("SERVICE", "STATE", "PID", "RESTARTS", "UPTIME"):
            table.add_column(column, no_wrap=True)
        table.add_column("STATUS", overflow="fold")
        for status in tuple(self._statuses.values()):
            table.add_row(*_row(status))
        return Group(table, Text(self._note))


def _row(status: Status) -> tuple[Text, ...]:
    return (
        Text(status.name),
        Text(status.state, style=_STYLES[status.state]),
        Text(str(status.pid or "")),
        Text(str(status.restarts)),
        Text(_uptime(status.ready_since)),
        Text(status.text),
    )


def _uptime(since: float | None) -> str:
    if since is None:
        return ""
    minutes, seconds = divmod(int(time.monotonic() - since), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


@contextmanager
def view(console: Console) -> Generator[View]:
    """What suits the console."""
    if not console.is_terminal:
        yield Lines(console)
        return
    board = Board()
    with Live(board, console=console, refresh_per_second=8):
        yield board
