"""Brings one name of a provider's to what is wanted of it, a step at a time: steps never overlap."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from stackmesh.backoff import Backoff
from stackmesh.errors import MeshError
from stackmesh.hosted import HostedProvider
from stackmesh.providers import Wanted
from stackmesh.tasks import background

log = logging.getLogger(__name__)

UNLOAD_SECONDS: Final = 30.0
UNLOAD_TRIES: Final = 5
SLOW_SECONDS: Final = 60.0
"""A step that takes longer goes on, and gives its place to others: some that hang must not starve the rest."""


class Places:
    """How many steps of a provider are taken at once, but for slow ones."""

    def __init__(self, count: int, slow_seconds: float = SLOW_SECONDS) -> None:
        self._semaphore = asyncio.Semaphore(count)
        self._slow_seconds = slow_seconds

    @asynccontextmanager
    async def taken(self, what: str) -> AsyncGenerator[None]:
        """A place, for as long as the body takes or until it is slow."""
        await self._semaphore.acquire()
        given = False

        def give() -> None:
            nonlocal given
            if not given:
                given = True
                self._semaphore.release()

        def slow() -> None:
            log.warning("%s takes longer than %g s; others go on meanwhile", what, self._slow_seconds)
            give()

        alarm = asyncio.get_running_loop().call_later(self._slow_seconds, slow)
        try:
            yield
        finally:
            alarm.cancel()
            give()


class Keeper:
    """Of the name `name`. Whoever changes what is wanted starts `run` when told to."""

    def __init__(self, name: str, hosted: HostedProvider, places: Places, backoff: Callable[[], Backoff]) -> None:
        self.wanted: Wanted | None = None
        self._name = name
        self._hosted = hosted
        self._places = places
        self._backoff = backoff
        self._running = False
        self._turned = False  # another step is due
        self._loading: asyncio.Task[None] | None = None

    def want(self, wanted: Wanted | None) -> bool:
        """None: it is wanted no more. Whether `run` has to be started for it."""
        if wanted == self.wanted:
            return False
        self.wanted = wanted
        if self._loading is not None:
            self._loading.cancel()
        return self._turn()

    def again(self) -> bool:
        """The backend has lost it. Whether `run` has to be started for it."""
        if self.wanted is None or (self._loading is not None and not self._loading.done()):
            return False  # it is being loaded, or not to be
        return self._turn()

    def _turn(self) -> bool:
        self._turned = True
        started, self._running = self._running, True
        return not started

    async def run(self) -> None:
        """Until it is as wanted."""
        try:
            while self._turned:
                self._turned = False
                if self.wanted is None:
                    await self._unload()
                    continue
                async with background(self._load(self.wanted), f"load {self._name}", vital=False) as loading:
                    self._loading = loading
                    await asyncio.wait([loading])
                    self._loading = None
        finally:
            self._running = False

    async def _load(self, wanted: Wanted) -> None:
        self._hosted.loading(self._name)
        backoff = self._backoff()
        while not self._turned:
            reason = await self._failure(lambda: self._hosted.provider.load(wanted), "load")
            if self._turned:
                return  # whatever came of it, something else is wanted
            if reason is None:
                self._hosted.loaded(self._name)
                return
            self._hosted.failed(self._name, reason)
            await asyncio.sleep(backoff.delay())

    async def _unload(self) -> None:
        """Some tries: what a backend keeps, it keeps memory for."""
        backoff = self._backoff()
        for _ in range(UNLOAD_TRIES):
            reason = await self._failure(self._unload_once, "unload")
            if reason is None or self._turned:
                break
            log.warning("provider %s failed to unload %s: %s", self._hosted.provider_id, self._name, reason)
            await asyncio.sleep(backoff.delay())
        self._hosted.unloaded(self._name)

    async def _unload_once(self) -> None:
        async with asyncio.timeout(UNLOAD_SECONDS):
            await self._hosted.provider.unload(self._name)

    async def _failure(self, step: Callable[[], Awaitable[None]], verb: str) -> str | None:
        """Why a step failed; None if it did not. Only what has cancelled us gets through."""
        try:
            async with self._places.taken(f"to {verb} {self._name} at {self._hosted.provider_id}"):
                await step()
        except MeshError as error:
            return error.message
        except TimeoutError:
            return f"the provider did not {verb} it in time"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a provider's own cancellation, or a panic of a library in Rust
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            log.exception("provider %s failed to %s %s", self._hosted.provider_id, verb, self._name)
            return f"the provider failed to {verb} it; its log has more"
        return None
