"""Which of several endpoints takes the next call: the one with the fewest requests in flight that has not failed.

Of many only two are looked at, drawn anew each time, and the better one taken. That loads them nearly as evenly, costs
a call the same among 1,000 as among 40, and opens no connection before there is a call for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from gateway.channels import EJECT_FIRST, EJECT_LIMIT, Channels, Upstream
from gateway.snapshot import Endpoint
from stackmesh.errors import ResourceExhausted

MANY: Final = 32
"""More endpoints than that are not looked at one by one."""


class Balancer:
    """Least requests, with ejection of what cannot be reached. `clock` is in seconds."""

    def __init__(
        self, channels: Channels, clock: Callable[[], float] = time.monotonic, chance: random.Random | None = None
    ) -> None:
        self._channels = channels
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 -- spreads load, guards nothing
        self._picks = 0

    def pick(self, endpoints: Sequence[Endpoint], tried: Collection[Endpoint] = ()) -> Upstream | None:
        """The upstream for the next call, counted as in flight on it until `release`; None if all have been tried.

        Ejected ones are used when there is no other. Raises ResourceExhausted when no connection can be opened to any.
        """
        get = self._channels.get
        if tried:
            endpoints = [endpoint for endpoint in endpoints if endpoint not in tried]
        if not endpoints:
            return None
        likely = endpoints if len(endpoints) <= MANY else self._drawn(endpoints)
        try:
            upstream = get(likely[0]) if len(likely) == 1 else self._least([get(e) for e in likely])
        except ResourceExhausted:
            known = [found for e in endpoints if (found := self._channels.peek(e)) is not None]
            if not known:
                raise
            upstream = self._least(known)
        self._picks += 1
        upstream.picked = self._picks
        upstream.requests_in_flight += 1
        return upstream

    def release(self, upstream: Upstream) -> None:
        """The call has ended, however."""
        self._channels.release(upstream)

    def failed(self, upstream: Upstream) -> None:
        """It could not be reached, or was lost: keep calls away for a while, longer each time."""
        if self.ejected(upstream):
            return  # its other calls fail of the same cause
        upstream.ejected_until = self._clock() + min(EJECT_FIRST * 2**upstream.failures, EJECT_LIMIT)
        upstream.failures = min(upstream.failures + 1, 16)

    def answered(self, upstream: Upstream) -> None:
        """It answered: all is well."""
        upstream.failures = 0

    def ejected(self, upstream: Upstream) -> bool:
        """Whether calls are kept away from it now."""
        return upstream.failures > 0 and self._clock() < upstream.ejected_until

    def _drawn(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Two of many, not both of them ejected if others are not."""
        two = self._chance.sample(endpoints, 2)
        if any(map(self._well, two)):
            return two
        well = [endpoint for endpoint in endpoints if self._well(endpoint)]
        return self._chance.sample(well, min(len(well), 2)) or two

    def _well(self, endpoint: Endpoint) -> bool:
        upstream = self._channels.peek(endpoint)
        return upstream is None or not self.ejected(upstream)

    def _least(self, upstreams: list[Upstream]) -> Upstream:
        best = min(upstreams, key=_load)
        if not best.failures:
            return best
        now = self._clock()
        return min(upstreams, key=lambda u: (u.failures > 0 and now < u.ejected_until, *_load(u)))


def _load(upstream: Upstream) -> tuple[int, int]:
    return upstream.requests_in_flight, upstream.picked  # of two equals, the one that has rested longest
