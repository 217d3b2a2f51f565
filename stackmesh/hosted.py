"""One provider of this process: what it serves, and what it cannot serve though it is registered.

It is asked every few seconds, and at once when somebody has reason to think that the answer has changed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from stackmesh import limits, names
from stackmesh.backoff import Backoff
from stackmesh.errors import (
    BackendUnreachable,
    InvalidField,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    clip,
)
from stackmesh.providers import Provider
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.registry.v1.resources_pb2 import Failure
from stackmesh.routes import Api

log = logging.getLogger(__name__)

LIST_TIMEOUT: Final = 5.0
LIST_INTERVAL: Final = 5.0
"""Seconds between two questions to a provider about what it serves."""
FAILING_SECONDS: Final = 10.0
"""For so long a provider may fail to say what it serves: the third failure in a row means that it serves nothing."""
REWORDING_SECONDS: Final = 60.0
"""So often at most a problem that stands is told in other words: they may have the id of a request, or the time."""

LOADING: Final = "it is being loaded"

Tell = Callable[[ServedReport], Awaitable[None]]


class HostedProvider:
    """An open provider, with what it was last known to serve."""

    def __init__(
        self,
        api: Api.ValueType,
        provider_id: str,
        provider_type: str,
        provider: Provider,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.provider_id = provider_id
        self.provider = provider
        self._empty = ServedReport(api=api, provider_id=provider_id, provider_type=provider_type)
        self._loading: set[str] = set()
        self._failed: dict[str, str] = {}
        self._clock = clock
        self._failing_since: float | None = None
        self._last: ServedReport | None = None
        self._last_at = 0.0
        self._served: frozenset[str] = frozenset()
        self._wanted = asyncio.Event()  # somebody wants it to be asked at once
        self._asking = 0
        self._told = asyncio.Condition()
        self._tellings = 0

    @property
    def last(self) -> ServedReport | None:
        """What it said when it was last asked, but for the wording of a problem; None before the first time."""
        return self._last

    def serves(self, name: str) -> bool:
        """Whether it served this when it was last asked."""
        return name in self._served

    # What the one who loads resources says

    def loading(self, name: str) -> None:
        """Loading has begun. A reason it failed with before stands until it succeeds."""
        if name not in self._failed and not self.serves(name):
            self._loading.add(name)
            self.look()

    def loaded(self, name: str) -> None:
        """Loading has succeeded."""
        if name in self._loading or self._forget(name) or not self.serves(name):
            self._loading.discard(name)
            self.look()

    def failed(self, name: str, reason: str) -> None:
        """Loading has failed."""
        self._loading.discard(name)
        if self._failed.get(name) != reason:
            self._failed[name] = reason
            self.look()

    def unloaded(self, name: str) -> None:
        """Nobody wants it any more."""
        self._loading.discard(name)
        self._forget(name)
        self.look()

    def _forget(self, name: str) -> bool:
        return self._failed.pop(name, None) is not None

    # Asking

    def look(self) -> None:
        """Ask soon: something has changed, or may have."""
        self._wanted.set()

    async def looked(self) -> None:
        """Ask now, and wait until the answer was told. The caller sets the time limit."""
        after = self._tellings + self._asking + 1  # one that has begun already may have come too early
        self.look()
        async with self._told:
            await self._told.wait_for(lambda: self._tellings >= after)

    async def keep_fresh(self, tell: Tell) -> None:
        """Ask for ever, and tell each answer that is not as the one before.

        Never fails: what could not be told is tried again, with what has come to be served since.
        """
        backoff = Backoff(limit=LIST_INTERVAL)
        news: ServedReport | None = None
        while True:
            await self._due()
            self._asking = 1
            try:
                news = await self.refresh() or news
                if news is not None:
                    await tell(news)
            except Exception:
                log.exception("what provider %s serves could not be told, trying again", self.provider_id)
                self._asking = 0
                await asyncio.sleep(backoff.delay())
                self.look()
                continue
            news = None
            backoff.reset()
            async with self._told:
                self._asking, self._tellings = 0, self._tellings + 1
                self._told.notify_all()

    async def _due(self) -> None:
        """Wait until somebody wants it to be asked, or it has not been asked for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LIST_INTERVAL):
                await self._wanted.wait()
        self._wanted.clear()

    async def refresh(self) -> ServedReport | None:
        """Ask what it serves; the report, if it is not as before."""
        report = await self.ask()
        if report == self._last or self._is_reworded(report):
            return None
        self._last, self._served, self._last_at = report, frozenset(report.provider_resource_ids), self._clock()
        return report

    def _is_reworded(self, report: ServedReport) -> bool:
        """Whether it is what was told not long ago, but for the wording of a problem."""
        if self._last is None or not (report.problem and self._last.problem):
            return False
        same = ServedReport()
        same.CopyFrom(report)
        same.problem = self._last.problem
        return same == self._last and self._clock() - self._last_at < REWORDING_SECONDS

    async def ask(self) -> ServedReport:
        """What it serves now, and what is wrong with its backend."""
        report = ServedReport()
        report.CopyFrom(self._empty)
        try:
            async with asyncio.timeout(LIST_TIMEOUT):
                served = await self.provider.list_served()
            report.provider_resource_ids.extend(filter(_can_travel, served))
            if len(report.provider_resource_ids) < len(served):
                report.problem = "some of what the backend serves has a name that cannot be registered"
            self._failing_since = None
        except MeshError as error:
            report.problem = error.message
            report.provider_resource_ids.extend(self._still_served(error))
        except TimeoutError as error:
            report.problem = f"the backend did not say within {LIST_TIMEOUT:g} s what it serves"
            report.provider_resource_ids.extend(self._still_served(error))
        except Exception as error:
            log.exception("provider %s could not be asked what it serves", self.provider_id)
            report.problem = "the provider failed when asked what it serves; its log has more"
            report.provider_resource_ids.extend(self._still_served(error))
        report.failures.extend(self._failures())
        return report

    def _still_served(self, error: Exception) -> Sequence[str]:
        """What counts as served though it could not say so: what it served before, unless it is not there or keeps
        failing. One that says it is busy is there.
        """
        now = self._clock()
        if isinstance(error, ResourceExhausted):
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now
        lasts = self._failing_since is not None and now - self._failing_since >= FAILING_SECONDS
        if self._last is None or lasts or _is_gone(error):
            return ()
        return self._last.provider_resource_ids

    def _failures(self) -> Iterator[Failure]:
        """What failed comes before what is only loading, if there is no room for all."""
        reasons = [*sorted(self._failed.items()), *((name, LOADING) for name in sorted(self._loading))]
        for name, reason in reasons[: limits.FAILURES]:
            yield Failure(provider_resource_id=name, reason=clip(reason, limits.REASON))

    def __repr__(self) -> str:
        return f"<HostedProvider {self.provider_id} [{len(self._served)} served, {len(self._failed)} failed]>"


def _is_gone(error: Exception) -> bool:
    """Whether whoever asks again would hear the same, until somebody does something about it."""
    return isinstance(error, Unauthenticated | PermissionDenied) or (
        isinstance(error, BackendUnreachable) and error.gone
    )


def _can_travel(name: str) -> bool:
    try:
        names.check_resource_name("served name", name)
    except InvalidField:
        return False
    return True
