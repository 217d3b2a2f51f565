"""Changes to providers and instances, each on top of all before it. Those that wait at the same time are one commit.

A thousand instances that say hello at once, or all report the same new model, cost some dozens of commits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from registry_service.instances.draft import Draft
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh.backoff import Backoff
from stackmesh.errors import Conflict

log = logging.getLogger(__name__)

Change = Callable[[Draft], None]
"""Changes the draft, or raises what its caller gets. It is called again whenever somebody else was faster."""

ATTEMPTS: Final = 10
_TOGETHER: Final = 3
"""So often several changes are tried together; then each for itself, in case one of them is what cannot be."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    change: Change
    written: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Drafts:
    """Writes changes for as long as `run` runs."""

    def __init__(self, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror
        self._waiting: list[_Asked] = []
        self._some = asyncio.Event()

    async def update(self, change: Change) -> int:
        """Apply a change to what is there now. Returns a revision that holds it.

        Raises what `change` raises, Conflict when others were faster too often, RegistryUnreachable.
        """
        asked = _Asked(change)
        self._waiting.append(asked)
        self._some.set()
        return await asked.written

    async def run(self) -> None:
        """Write what is asked for, for ever."""
        while True:
            await self._some.wait()
            self._some.clear()
            waiting, self._waiting = self._waiting, []
            await self._write(waiting)

    async def _write(self, waiting: Sequence[_Asked]) -> None:
        backoff, tries = Backoff(first=0.01, limit=0.2), 0
        while waiting := [asked for asked in waiting if not asked.written.done()]:
            try:
                await self._attempt(waiting if tries < _TOGETHER else waiting[:1])
                tries = 0
            except Conflict as error:
                log.debug("again: %s", error)
                tries += 1
                if tries == ATTEMPTS:
                    _fail(waiting[:1], error)
                    tries = 0
                await asyncio.sleep(backoff.delay())
            except Exception as error:  # noqa: BLE001 -- it is theirs who asked
                _fail(waiting, error)

    async def _attempt(self, waiting: Sequence[_Asked]) -> None:
        """Write as many of the first as fit into one commit, or the first alone."""
        draft, together = Draft(await self._mirror.current()), list[_Asked]()
        for asked in waiting:
            fork = draft.fork()
            try:
                asked.change(fork)
            except Exception as error:  # noqa: BLE001 -- it is theirs who asked
                _fail([asked], error)
                continue
            if together and not fork.fits:
                break
            draft = fork
            together.append(asked)
        try:
            revision = await draft.commit(self._store)
        except Conflict:
            raise
        except Exception as error:  # noqa: BLE001 -- as above
            _fail(together, error)
        else:
            _settle(together, revision)


def _settle(those: Sequence[_Asked], revision: int) -> None:
    for asked in those:
        if not asked.written.done():  # who asked may have gone
            asked.written.set_result(revision)


def _fail(those: Sequence[_Asked], error: Exception) -> None:
    for asked in those:
        if not asked.written.done():
            asked.written.set_exception(error)
