"""Makes the providers of this process serve what is registered with them.

    registry ── Reflector ──> Wishes ── changed ──> Convergence ──> provider.load / unload
                                                         └────────> HostedProvider: what to report, and when to look

For each name whose wish has changed, or that its backend has lost, one task (stackmesh/keeper.py) brings the provider
there: again and again with growing delays, until what is wanted is loaded. While the registry is away the wishes stay
as they are, and so does what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from stackmesh.backoff import Backoff
from stackmesh.hosting import HostedProviders
from stackmesh.keeper import Keeper, Places
from stackmesh.providers import Wanted
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.wishes import Name, Wishes

LOADS_AT_ONCE: Final = 4
"""For each provider."""


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
        self._places = {provider_id: Places(loads_at_once) for provider_id in self._hosted}
        self._wishes = wishes
        self._backoff = backoff
        self._keepers: dict[Name, Keeper] = {}
        self._served = {report.provider_id: frozenset(report.provider_resource_ids) for report in hosted.reports}

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
            keeper = Keeper(own, self._hosted[provider_id], self._places[provider_id], self._backoff)
            self._keepers[name] = keeper
        if keeper.want(wanted):
            self._start(name, keeper)

    def _start(self, name: Name, keeper: Keeper) -> None:
        self._group.create_task(self._keep(name, keeper), name=f"keep {name[1]} at {name[0]}")

    async def _keep(self, name: Name, keeper: Keeper) -> None:
        await keeper.run()
        if keeper.wanted is None:
            self._keepers.pop(name, None)

    def __repr__(self) -> str:
        return f"<Convergence of {len(self._keepers)} names>"
