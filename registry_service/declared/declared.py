"""What the YAML declares: the rows with source=CONFIG follow it, those of users are never touched.

Every replica does this: at its start, whenever an instance has said something new to any of them, and when somebody
else has changed one of these rows, or freed a name that is declared. What is as it should be is not written. A declared
resource whose provider has not answered yet is a pending row, tried again until it has.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Final

from registry_service.declared import providers as declared_providers
from registry_service.declared.declarations import declarations
from registry_service.declared.resources import DeclaredResources
from registry_service.instances.drafts import Drafts
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.registering.resolve import Resolver
from registry_service.store import Store
from stackmesh.backoff import Backoff
from stackmesh.config import Config
from stackmesh.errors import MeshError
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType

log = logging.getLogger(__name__)

_REST: Final = 5
"""Times as long as it took to follow, it rests: a thousand instances that come together cost it a part of its time."""
_REST_SECONDS: Final = 1.0
_NEEDS: Final = {ResourceType.RESOURCE_TYPE_MEMORY_BANK: ResourceType.RESOURCE_TYPE_MODEL}
"""Which type has to be there before another: a vector bank needs its embedding model."""


class Declared:
    """Keeps the rows in step with one configuration."""

    def __init__(self, config: Config, store: Store, mirror: Mirror, drafts: Drafts, resolver: Resolver) -> None:
        """Raises ConfigError for what cannot be registered."""
        self._config = config
        self._mirror = mirror
        self._drafts = drafts
        self._types = {
            which: DeclaredResources(KINDS[which], rows, store, resolver)
            for which, rows in declarations(config).items()
        }
        self.followed = asyncio.Event()
        """Set once the providers of the YAML are known, and what they may be asked for can be asked."""

    async def run(self) -> None:
        """Follow for ever: at every change, and with growing pauses while something is pending, or it fails."""
        backoff, failing = Backoff(first=0.5, limit=30.0), Backoff(limit=5.0)
        while True:
            known, began = self._mirror.known or Known(), time.monotonic()
            if (pending := await self._try()) is None:
                await asyncio.sleep(failing.delay())  # what has changed is still to be followed, so it wakes nobody
                continue
            failing.reset()
            pause = backoff.delay() if pending else None
            await asyncio.sleep(min(_REST * (time.monotonic() - began), _REST_SECONDS))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    if _news(known, await self._changed(known)):
                        backoff.reset()

    async def _changed(self, since: Known) -> Known:
        """Wait until it may be otherwise than when something was known."""
        known = self._mirror.known or since
        while not _news(since, known) and not any(each.disturbed(known) for each in self._types.values()):
            known = await self._mirror.changed(known)
        return known

    async def follow(self) -> bool:
        """Make the rows follow once. Returns whether something has to be tried again. Raises a group of MeshErrors."""
        await self._drafts.update(lambda draft: declared_providers.place(draft, self._config))
        self.followed.set()
        tasks: dict[ResourceType.ValueType, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:
            for which, resources in self._types.items():
                first = tasks.get(_NEEDS.get(which, which))
                tasks[which] = group.create_task(self._follow(resources, first))
        return any(task.result() for task in tasks.values())

    async def _follow(self, resources: DeclaredResources, first: Awaitable[bool] | None) -> bool:
        if first is not None:
            await first
        return await resources.follow(await self._mirror.current())

    async def _try(self) -> bool | None:
        """As `follow`; None if it failed."""
        try:
            return await self.follow()
        except* MeshError as errors:
            log.warning("the rows could not follow the YAML, trying again: %s", _first(errors))
        except* Exception:
            log.exception("the rows could not follow the YAML, trying again")
        return None


def _news(since: Known, now: Known) -> bool:
    """Whether an instance has come or said something new. That one has gone is none: nobody new can be asked."""
    if now.same_serving(since):
        return False
    before = since.instances()
    return any(instance is not before.get(name) for name, instance in now.instances().items())


def _first(errors: ExceptionGroup[MeshError]) -> MeshError:
    """One of a group, which may hold groups."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
