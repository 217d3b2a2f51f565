"""A registry that gives checkpoints for a store it has not heard."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from registry_service.etcd.store import EtcdStore
from registry_service.store import Commit
from stackmesh.errors import RegistryUnreachable
from stackmesh.tasks import background
from tests.faults.planted.registry import run_over

_CHECKPOINT_SECONDS: Final = 1.0


class Reassuring(EtcdStore):
    """Says that there is nothing new, come what may."""

    async def watch(self, start_revision: int) -> AsyncGenerator[Commit]:
        said: asyncio.Queue[Commit] = asyncio.Queue()
        delivered = start_revision - 1
        async with background(self._follow(start_revision, said), "follow the store"):
            while True:
                try:
                    async with asyncio.timeout(_CHECKPOINT_SECONDS):
                        commit = await said.get()
                except TimeoutError:
                    commit = Commit(delivered, ())
                delivered = commit.revision
                yield commit

    async def _follow(self, start: int, said: asyncio.Queue[Commit]) -> None:
        while True:
            try:
                async with aclosing(super().watch(start)) as commits:
                    async for commit in commits:
                        start = commit.revision + 1
                        said.put_nowait(commit)
            except RegistryUnreachable:
                await asyncio.sleep(_CHECKPOINT_SECONDS)


if __name__ == "__main__":
    sys.exit(run_over(Reassuring))
