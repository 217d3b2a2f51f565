"""What a person sees of the services."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from stackmesh.supervisor.status import State, Status
from stackmesh.supervisor.view import Board, Lines, view


def shown(*statuses: Status, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, _environ={"TERM": "xterm"})
    with view(console) as seen:
        for status in statuses:
            seen.show(status)
        seen.note("the mesh is up")
    return console.file.getvalue()


def test_without_a_terminal_each_change_of_state_is_a_plain_line() -> None:
    text = shown(
        Status("gateway", State.STARTING),
        Status("gateway", State.STARTING, pid=7),
        Status("gateway", State.READY, "at 127.0.0.1:8321 [bold]", pid=7),
        Status("gateway", State.READY, "at 127.0.0.1:8321 [bold]", pid=7, ready_since=1.0),
        Status("gateway", State.READY, "at home", pid=7),
        terminal=False,
    )
    assert [line.partition(" ")[2] for line in text.splitlines()] == [
        "gateway starting",
        "gateway ready: at 127.0.0.1:8321 [bold]",
        "gateway ready: at home",
        "the mesh is up",
    ]
    assert "\x1b" not in text


def test_on_a_terminal_a_table_shows_how_all_are_doing() -> None:
    ready = Status("gateway", State.READY, "at home", pid=4711, restarts=2, ready_since=time.monotonic() - 3725)
    text = shown(Status("registry", State.STARTING), ready, terminal=True)
    assert "\x1b" in text
    for part in ("registry", "starting", "gateway", "ready", "4711", "at home", "1:02:05", "the mesh is up"):
        assert part in text


@pytest.mark.parametrize(("terminal", "kind"), [(True, Board), (False, Lines)])
def test_the_console_decides(terminal: bool, kind: type) -> None:
    with view(Console(file=io.StringIO(), force_terminal=terminal)) as seen:
        assert isinstance(seen, kind)
