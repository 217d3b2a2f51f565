"""stackmesh registry export: the users' registrations as they are at one revision."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, cast

from stackmesh.cli import backup, files
from stackmesh.cli.failures import told
from stackmesh.cli.show import counted
from stackmesh.client import Client
from stackmesh.client.watch import Word
from stackmesh.reflector import Listed
from stackmesh.registry.v1.resources_pb2 import SOURCE_USER
from stackmesh.resources import KINDS, Resource

WORDS: Final[Sequence[Word]] = [cast("Word", kind.word) for kind in KINDS.values()]


def run(address: str, path: Path | None) -> None:
    """To standard output without a path."""

    async def fetch() -> Listed:
        async with Client(address) as client:
            return await client.entries(kinds=WORDS)

    with told(address):
        listed = asyncio.run(fetch())
        resources = [cast("Resource", getattr(entry, entry.WhichOneof("value") or "")) for entry in listed.entries]
        text = _heading(listed) + backup.write(resources)
        if path is None:
            print(text, end="")
            return
        files.put(path, text)
        own = sum(resource.source == SOURCE_USER for resource in resources)
        print(f"{path}: {counted(own, 'registrations')} at revision {listed.revision}", file=sys.stderr)


def _heading(listed: Listed) -> str:
    at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return (
        f"# What users have registered, at {at}: revision {listed.revision} of the store {listed.store_id}.\n"
        "# Bring it back with: stackmesh registry import FILE\n"
    )
