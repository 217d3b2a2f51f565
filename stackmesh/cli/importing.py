"""stackmesh registry import: every entry of a file through Register, and what became of each."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stackmesh.cli import backup
from stackmesh.cli.backup import Backup, Entry
from stackmesh.cli.failures import INTERRUPTED, told
from stackmesh.cli.foreseen import Mesh
from stackmesh.cli.show import inert
from stackmesh.client import Client
from stackmesh.errors import DeadlineExceeded, MeshError, RegistryUnreachable, ResourceExists, StoreFull, Unavailable
from stackmesh.registry.v1.resources_pb2 import Model
from stackmesh.resources import KINDS, Resource

_TIMEOUT: Final = 30.0
"""The provider is asked, and may have to ask its backend."""
_AT_ONCE: Final = 8
_LONG: Final = 50
"""Entries from which a bar shows how far it is."""


class Outcome(StrEnum):
    """What has become of an entry."""

    CREATED = "created"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"
    DIFFERS = "differs"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Result:
    outcome: Outcome
    why: str = ""


@dataclass(slots=True)
class Import:
    """What is done to a mesh, and what has become of each entry so far."""

    client: Client
    entries: Sequence[Entry]
    replace: bool
    dry_run: bool
    results: dict[int, Result] = field(default_factory=dict[int, Result])
    mesh: Mesh = field(default_factory=Mesh)
    models: set[str] = field(default_factory=set[str])
    """Those of the file that are there, or would be."""
    lost: bool = False
    """The registry cannot be written to: what is left is not tried."""

    async def run(self, progress: Progress) -> None:
        self.mesh = await Mesh.seen(self.client)
        bar = progress.add_task("importing", total=len(self.entries))
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(index: int, entry: Entry) -> None:
            async with at_once:
                if not self.lost:
                    self.results[index] = Result(Outcome.UNKNOWN, "interrupted while it was written; run it again")
                    self.results[index] = await self._settle(entry)
                    if entry.kind.message is Model and self.results[index].outcome is not Outcome.FAILED:
                        self.models.add(entry.name)
                progress.advance(bar)

        for kind in KINDS.values():  # in turn: a memory bank's embedding model is registered before it
            async with asyncio.TaskGroup() as group:
                for index, entry in enumerate(self.entries):
                    if entry.kind is kind:
                        group.create_task(one(index, entry))

    def result(self, index: int) -> Result:
        return self.results.get(index, Result(Outcome.NOT_TRIED))

    async def _settle(self, entry: Entry) -> Result:
        row = self.mesh.row(entry)
        differences = [] if row is None else _differences(entry, row)
        if row is not None and not differences:
            return Result(Outcome.UNCHANGED)
        if self.dry_run:
            return self._foreseen(entry, row, differences)
        try:
            return await self._write(entry, row, differences)
        except MeshError as error:
            lost = type(error) is Unavailable or isinstance(error, RegistryUnreachable)
            self.lost |= lost or isinstance(error, StoreFull)
            if lost or type(error) is DeadlineExceeded:
                return Result(Outcome.UNKNOWN, f"it may have been written: {error.message}")
            return Result(Outcome.FAILED, error.message)

    async def _write(self, entry: Entry, row: Resource | None, differences: Sequence[str]) -> Result:
        names: Any = getattr(self.client, entry.kind.plural)
        try:
            await names.register(entry.name, **entry.fields())
        except ResourceExists:
            if row is None:
                return Result(Outcome.DIFFERS, "somebody has registered it meanwhile")
            if not self.replace:
                return Result(Outcome.DIFFERS, "; ".join(differences))
            await names.update(entry.name, expected_revision=row.revision, **entry.fields())
            return Result(Outcome.REPLACED, "; ".join(differences))
        return Result(Outcome.CREATED if row is None else Outcome.UNCHANGED)

    def _foreseen(self, entry: Entry, row: Resource | None, differences: Sequence[str]) -> Result:
        if row is not None and not self.replace:
            return Result(Outcome.DIFFERS, "; ".join(differences))
        if self.mesh.declares(entry):
            return Result(Outcome.FAILED, "the mesh's YAML declares it: change it there")
        if objection := self.mesh.objection(entry, self.models):
            return Result(Outcome.FAILED, objection)
        return Result(Outcome.CREATED if row is None else Outcome.REPLACED, "; ".join(differences))


def run(address: str, path: Path | None, *, dry_run: bool, replace: bool) -> None:
    """From standard input without a path. Ends with code 1 unless every entry is there as the file has it."""
    with told(address):
        held = backup.read(path)
        work: Import | None = None

        async def call() -> None:
            nonlocal work
            async with Client(address, timeout=_TIMEOUT) as client:
                work = Import(client, held.entries, replace, dry_run)
                with _progress(len(held.entries)) as progress:
                    await work.run(progress)

        try:
            asyncio.run(call())
        except KeyboardInterrupt:
            if work is not None:
                _tell(work, held)
            raise typer.Exit(INTERRUPTED) from None
        if work is not None and _tell(work, held):
            raise typer.Exit(1)


def _differences(entry: Entry, row: Resource) -> list[str]:
    """What the file says otherwise, in words."""
    found: list[str] = []
    said = {"provider_id": entry.provider_id, f"provider_{entry.kind.word}_id": entry.provider_name}
    there = {"provider_id": row.provider_id, f"provider_{entry.kind.word}_id": row.provider_resource_id}
    for name, value in said.items():
        if value is not None and value != there[name]:
            found.append(f"{name} is {there[name] or 'not known yet'}, in the file {value}")
    if getattr(row, entry.kind.payload) != entry.payload:
        found.append(f"{entry.kind.payload} {'is' if entry.kind.payload == 'metadata' else 'are'} not as in the file")
    return found


def _tell(work: Import, held: Backup) -> bool:
    """Print what became of everything. Returns whether something is not as the file has it."""
    counts: Counter[str] = Counter()
    for index, entry in enumerate(work.entries):
        result = work.result(index)
        counts[_word(result.outcome, dry_run=work.dry_run)] += 1
        why = f": {inert(result.why)}" if result.why else ""
        print(f"{_word(result.outcome, dry_run=work.dry_run)} {entry}{why}")
    if held.not_restored:
        print(f"skipped {held.not_restored} of {backup.NOT_RESTORED}: the mesh's YAML and discovery make these")
    print(", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing to import")
    if work.dry_run and counts.keys() & {"would be created", "would be replaced"}:
        print("note: whether its provider knows a name is only asked when it is written", file=sys.stderr)
    differ = [entry for i, entry in enumerate(work.entries) if work.result(i).outcome is Outcome.DIFFERS]
    if any(not work.mesh.declares(entry) for entry in differ):
        print("hint: make them as in the file with --replace", file=sys.stderr)
    if any(work.mesh.declares(entry) for entry in differ):
        print("hint: what the mesh's YAML declares is changed there", file=sys.stderr)
    if work.lost or counts[Outcome.UNKNOWN] or counts[Outcome.NOT_TRIED]:
        print("hint: run it again; what is there already is unchanged", file=sys.stderr)
    outcomes = {work.result(index).outcome for index in range(len(work.entries))}
    return not outcomes.isdisjoint({Outcome.DIFFERS, Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_TRIED})


def _word(outcome: Outcome, *, dry_run: bool) -> str:
    if dry_run and outcome in (Outcome.CREATED, Outcome.REPLACED):
        return f"would be {outcome}"
    return "would fail" if dry_run and outcome is Outcome.FAILED else outcome


def _progress(total: int) -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total < _LONG,
    )
