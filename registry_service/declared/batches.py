"""Changes of many tasks, committed together as they come: at most COMMIT_LIMIT at a time, one commit after the other.

Ten thousand names that are declared anew are some hundreds of revisions, with room for others' writes between them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from registry_service.store import COMMIT_LIMIT, Op, Store
from stackmesh.errors import Conflict

_GATHER_SECONDS: Final = 0.02
"""For who comes next to come along. Nobody waits for these writes."""


@dataclass(slots=True, eq=False)
class _Change:
    op: Op
    expect: Mapping[str, int]
    revision: int | None = None
    """That made it; 0 if somebody else was faster; None before it was tried."""


class Batches:
    """Who writes waits for a turn, and takes along what others have brought meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Change] = []
        self._turn = asyncio.Lock()

    async def write(self, op: Op, expect: Mapping[str, int]) -> int:
        """The revision that made the change, or 0 if a key of `expect` was not as expected. Raises RegistryUnreachable.

        Changes that wait at the same time must be of different keys.
        """
        mine = _Change(op, expect)
        self._waiting.append(mine)
        try:
            async with self._turn:
                if mine.revision is None:
                    if len(self._waiting) < COMMIT_LIMIT:
                        await asyncio.sleep(_GATHER_SECONDS)
                    await self._commit(self._waiting[:COMMIT_LIMIT])
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        return mine.revision or 0

    async def _commit(self, batch: Sequence[_Change]) -> None:
        """All together; each for itself if one of them comes too late."""
        if len(batch) == 1 or not await self._try(batch):
            for change in batch:
                await self._try([change])
        self._waiting = [change for change in self._waiting if change.revision is None]

    async def _try(self, batch: Sequence[_Change]) -> bool:
        expect = {key: revision for change in batch for key, revision in change.expect.items()}
        try:
            revision = await self._store.commit([change.op for change in batch], expect=expect)
        except Conflict:
            revision = 0
        if revision or len(batch) == 1:
            for change in batch:
                change.revision = revision
        return bool(revision)
