"""Makes the providers of this process serve what is registered with them.

    registry ── Reflector ──> Wishes ── changed ──> Convergence ──> provider.load / unload
                                                         └────────> HostedProvider: what to report, and when to look

For each name whose wish has changed, or that its backend has lost, one task brings the provider there: again and again
with growing delays, until it succeeds. While the registry is away the wishes stay as they are, and so does what is
served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from stackmesh.backoff import Backoff
from stackmesh.errors import MeshError
from stackmesh.hosted import HostedProvider
from stackmesh.hosting import HostedProviders
from stackmesh.providers import Wanted
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.tasks import background
from stackmesh.wishes import Name, Wishes

log = logging.getLogger(__name__)

LOADS_AT_ONCE: Final = 4
"""For each provider."""
UNLOAD_SECONDS: Final = 30.0


def _backoff() -> Backoff:
    return Backoff(first=0.5, limit=30.0)


class Convergence:
    """`run` does it; `reported` is to be told what each provider has been found to serve."""

    def __init__(
        self,
        hosted: HostedProviders,
        wishes: Wishes,
        *,
        loads_at_once: int = LOADS_AT_ONCE,
        backoff: Callable[[], Backoff] = _backoff,
    ) -> None:
        self._hosted = {each.provider_id: each for each in hosted}
        self._places = {provider_id: asyncio.Semaphore(loads_at_once) for provider_id in self._hosted}
        self._wishes = wishes
        self._backoff = backoff
        self._keepers: dict[Name, _Keeper] = {}
        self._served: dict[str, frozenset[str]] = {}

    async def run(self) -> None:
        """Converge until cancelled, which stops loads in progress and unloads nothing."""
        async with asyncio.TaskGroup() as self._group:
            try:
                while True:
                    for name, wanted in (await self._wishes.changed()).items():
                        self._want(name, wanted)
                        await asyncio.sleep(0)  # ten thousand at once would keep calls and beats waiting
            finally:
                self._keepers.clear()  # `reported` starts nothing any more

    def reported(self, report: ServedReport) -> None:
        """What was served and is no longer, though it is wanted, is loaded again."""
        now = frozenset(report.provider_resource_ids)
        for lost in self._served.get(report.provider_id, frozenset()) - now:
            name = (report.provider_id, lost)
            if (keeper := self._keepers.get(name)) is not None and keeper.again():
                self._start(name, keeper)
        self._served[report.provider_id] = now

    def _want(self, name: Name, wanted: Wanted | None) -> None:
        provider_id, own = name
        keeper = self._keepers.get(name)
        if keeper is None:
            if wanted is None:
                return
            keeper = _Keeper(own, self._hosted[provider_id], self._places[provider_id], self._backoff)
            self._keepers[name] = keeper
        if keeper.want(wanted):
            self._start(name, keeper)

    def _start(self, name: Name, keeper: _Keeper) -> None:
        self._group.create_task(self._keep(name, keeper), name=f"keep {name[1]} at {name[0]}")

    async def _keep(self, name: Name, keeper: _Keeper) -> None:
        await keeper.run()
        if keeper.wanted is None:
            self._keepers.pop(name, None)

    def __repr__(self) -> str:
        return f"<Convergence of {len(self._keepers)} names>"


class _Keeper:
    """Brings one name of a provider's to what is wanted of it, a step at a time: steps never overlap."""

    def __init__(
        self, name: str, hosted: HostedProvider, places: asyncio.Semaphore, backoff: Callable[[], Backoff]
    ) -> None:
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
        """The backend has lost it. Whether `run` has to be started; one that is running gets there anyway."""
        return not self._running and self._turn()

    def _turn(self) -> bool:
        self._turned = True
        started, self._running = self._running, True
        return not started

    async def run(self) -> None:
        """Until it is as wanted."""
        while self._turned:
            self._turned = False
            if self.wanted is None:
                await self._unload()
                continue
            async with background(self._load(self.wanted), f"load {self._name}") as self._loading:
                await asyncio.wait([self._loading])
            self._loading = None
        self._running = False

    async def _load(self, wanted: Wanted) -> None:
        self._hosted.loading(self._name)
        backoff = self._backoff()
        while (reason := await self._failure(wanted)) is not None:
            self._hosted.failed(self._name, reason)
            await asyncio.sleep(backoff.delay())
        self._hosted.loaded(self._name)

    async def _failure(self, wanted: Wanted) -> str | None:
        """Why it could not be loaded; None if it could."""
        try:
            async with self._places:
                await self._hosted.provider.load(wanted)
        except MeshError as error:
            return error.message
        except Exception:
            log.exception("provider %s failed to load %s", self._hosted.provider_id, self._name)
            return "the provider failed to load it; its log has more"
        return None

    async def _unload(self) -> None:
        try:
            async with asyncio.timeout(UNLOAD_SECONDS):
                await self._hosted.provider.unload(self._name)
        except Exception:
            log.exception("provider %s failed to unload %s", self._hosted.provider_id, self._name)
        self._hosted.unloaded(self._name)
