"""stackmesh watch: what changes in the registry, a line each, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final, Literal, cast

from rich.console import Console
from rich.text import Text

from stackmesh.cli.failures import told
from stackmesh.cli.show import as_json, inert, plain
from stackmesh.client import Change, Client, What
from stackmesh.client.watch import Record, Word
from stackmesh.registry.v1.resources_pb2 import Handover, Instance, Provider
from stackmesh.resources import earlier

_ALWAYS: Final = ("revision", "updated_at")
"""What every update changes."""
_MARKS: Final = {What.ADDED: ("+", "green"), What.UPDATED: ("~", "yellow"), What.REMOVED: ("-", "red")}


class Watcher:
    """What is asked for, and how it is shown."""

    def __init__(self, kind: str | None, start_revision: int | None, form: Literal["table", "json"]) -> None:
        word = (kind or "").removesuffix("s").replace("-", "_")
        self._kinds: list[Word] = [cast("Word", word)] if word else []
        self._start = start_revision
        self._json = form == "json"
        self._console = Console(highlight=False)
        self._before: dict[tuple[Word, str], Record | None] = {}

    async def follow(self, address: str, *, only_changes: bool) -> None:
        async with (
            Client(address) as client,
            aclosing(client.watch(kinds=self._kinds, start_revision=self._start)) as changes,
        ):
            async for change in changes:
                if not (only_changes and change.initial):
                    self._show(change)

    def _show(self, change: Change) -> None:
        at = datetime.now(UTC)
        if self._json:
            print(as_json(_plain(change, at), indent=None), flush=True)
            return
        mark, style = _MARKS[change.what]
        before = self._before.pop((change.kind, change.name), None)
        if change.what is not What.REMOVED:
            self._before[change.kind, change.name] = change.record
        about = _about(change.record)
        if change.what is What.UPDATED and about == _about(before):  # what has changed the line does not show
            about += _changed(before, change.record)
        line = Text.assemble(
            f"{at.astimezone():%H:%M:%S} ",
            (mark, style),
            f" {change.kind.replace('_', ' ')} {change.name}  {inert(about)}".rstrip(),
        )
        self._console.print(line, soft_wrap=True)


def run(
    address: str,
    kind: str | None,
    form: Literal["table", "json"],
    start_revision: int | None,
    *,
    only_changes: bool,
) -> None:
    """Until Ctrl-C, which is how it ends well. What the reflector has to say goes to stderr."""
    logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
    watcher = Watcher(kind, start_revision, form)
    with told(address):
        try:
            asyncio.run(watcher.follow(address, only_changes=only_changes))
        except KeyboardInterrupt:
            return


def _plain(change: Change, at: datetime) -> dict[str, object]:
    return {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "change": change.what,
        "kind": change.kind,
        "name": change.name,
        "revision": change.revision,
        "initial": change.initial,
        "record": None if change.record is None else _recorded(change.record),
    }


def _recorded(record: Record) -> dict[str, object]:
    """Without the serving state, which Get works out and no watch tells."""
    return {key: value for key, value in plain(record).items() if key not in ("serving_state", "serving_reason")}


def _changed(before: Record | None, now: Record | None) -> str:
    """The fields that an update changed."""
    if before is None or now is None:
        return ""
    one, other = _recorded(before), _recorded(now)
    names = [name for name in other if name not in _ALWAYS and one.get(name) != other[name]]
    return f"  ({', '.join(names)})" if names else ""


def _about(record: Record | None) -> str:
    match record:
        case None:
            return ""
        case Provider():
            return f"{record.provider_type}, serves {len(record.served)}"
        case Instance():
            problems = [f"{entry.provider_id}: {entry.problem}" for entry in record.providers if entry.problem]
            return "; ".join([record.address, *problems])
        case Handover():
            before = earlier(record)
            return (
                f"calls go to {before.provider_resource_id} at {before.provider_id} until what it stands for is served"
            )
        case _:
            return record.pending_reason or f"{record.provider_id} as {record.provider_resource_id}"
