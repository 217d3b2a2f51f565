"""One call of a client and its tries upstream: where each goes, and whether there is a next one.

A call is tried elsewhere only if it was never processed, or if its method is idempotent; only before anything of an
answer was seen; only before a stream of requests was begun, for what was read of it is gone; at most FURTHER_TRIES
times, within its deadline; and what was answered UNAVAILABLE only for as long as its routing says.

Every line that a good call passes counts: between two calls the processor's caches have forgotten them all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, Self

import grpc

from gateway import failures, metadata
from gateway.balancer import Balancer
from gateway.channels import Upstream
from gateway.director import Target
from gateway.metadata import Pair
from gateway.routing import Routing
from gateway.snapshot import Endpoint
from stackmesh.errors import Timeout, Unavailable
from stackmesh.routes import Method

FURTHER_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class Way:
    """What the calls of one method have in common."""

    method: Method
    routing: Routing
    balancer: Balancer
    limit: float
    """Seconds for a call whose client sets no deadline."""


class Tries:
    """The tries of one call. `with await tries.next(name):` is one of them; leaving the block ends it upstream."""

    __slots__ = (
        "_began", "_call", "_context", "_forwarded", "_imposed", "_target", "_tried", "_until", "_upstream", "_way",
        "answered", "route", "spent",
    )  # fmt: skip
    _call: Any
    _target: Target
    _upstream: Upstream

    def __init__(self, way: Way, context: Any) -> None:
        """Reads the client's metadata; raises what `metadata.read` raises."""
        self._way = way
        self._context = context
        self._forwarded, self.route = metadata.read(context.invocation_metadata())
        timeout = context.time_remaining()
        self._imposed = timeout is None
        self._began = monotonic()
        self._until = self._began + (way.limit if timeout is None else timeout)
        self._tried: tuple[Endpoint, ...] = ()
        self.answered = False
        """Whether initial metadata has gone to the client, so that there is no other try."""
        self.spent = False
        """Whether requests have been read that no other try could send again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        if kind is not None and self._call is not None:
            self._call.cancel()
        self._way.balancer.release(self._upstream)

    def remaining(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self._until - monotonic()

    async def next(self, name: str) -> Self:
        """The next try, on an upstream that was not tried yet. Raises what the routing raises."""
        way = self._way
        target = way.routing.target(way.method, name)
        if target is None:
            target = await way.routing.settled(way.method, name, self.remaining())
        upstream = way.balancer.pick(target.endpoints, self._tried)
        if upstream is None:  # the others have left since
            raise self._unreachable(self._tried[-1])
        self._target, self._upstream, self._call = target, upstream, None
        return self

    def start(self, *request: bytes) -> Any:
        """Begin the call, of grpc.aio."""
        self._call = call = self._upstream.callable(self._way.method)(
            *request,
            timeout=self._until - monotonic(),
            metadata=(*self._forwarded, *self._target.routed, *self._upstream.bound),
        )
        return call

    async def answer(self, initial: Collection[Pair]) -> None:
        """Pass the upstream's initial metadata on. With a stream, say who it was."""
        self.answered = True
        if self._upstream.failures:
            self._way.balancer.answered(self._upstream)
        passed_on = metadata.answered(initial) if initial else ()
        if self._way.method.server_streaming:
            await self._context.send_initial_metadata((*passed_on, *self._signature))
        elif passed_on:
            await self._context.send_initial_metadata(passed_on)

    def end(self, trailing: Collection[Pair]) -> None:
        """Pass the upstream's trailing metadata on. With a unary answer, say who it was."""
        self._context.set_trailing_metadata(self._trailers(trailing))

    def _trailers(self, trailing: Collection[Pair]) -> tuple[Pair, ...]:
        passed_on = metadata.answered(trailing) if trailing else ()
        # Not in the initial metadata: grpc.aio would send that by itself, which costs as much as an eighth of the call.
        return tuple(passed_on) if self._way.method.server_streaming else (*passed_on, *self._signature)

    @property
    def _signature(self) -> tuple[Pair, ...]:
        return (*self._upstream.answered_by, *self._target.answered)

    async def fail(self, error: grpc.aio.AioRpcError) -> None:
        """Returns if there shall be another try. Else it passes the upstream's status on, or raises what it means."""
        # The registry's own calls are bound to none, so it speaks of somebody else.
        stranger = bool(self._upstream.bound) and failures.stranger(error)
        lost = stranger or failures.lost(error)
        if lost:
            self._way.balancer.failed(self._upstream)
        if not self.answered and not self.spent and self._again(error, unprocessed=stranger):
            return
        if lost:
            raise self._unreachable(self._upstream.endpoint) from None
        timed_out = failures.timed_out(error)  # nobody's answer either
        if timed_out and self._imposed:
            raise Timeout(f"the call took longer than the {self._way.limit:g} s allowed without a deadline") from None
        if not timed_out and not self.answered:
            await self.answer(tuple(error.initial_metadata()))
        await self._context.abort(error.code(), error.details() or "", self._trailers(error.trailing_metadata()))

    def _again(self, error: grpc.aio.AioRpcError, *, unprocessed: bool) -> bool:
        """Whether a failed try that has answered nothing is followed by another one."""
        safe = (
            unprocessed
            or failures.unprocessed(error, self._upstream.channel)
            or (
                self._way.method.idempotent
                and error.code() is grpc.StatusCode.UNAVAILABLE
                and monotonic() - self._began <= self._way.routing.repeats_within
            )
        )
        if not safe or len(self._tried) >= FURTHER_TRIES or self.remaining() <= 0:
            return False
        self._tried = (*self._tried, self._upstream.endpoint)
        return any(endpoint not in self._tried for endpoint in self._target.endpoints)

    def _unreachable(self, endpoint: Endpoint) -> Unavailable:
        """What it means to the caller that the connection to an endpoint failed or broke."""
        who = f"instance {endpoint.instance_id}" if endpoint.instance_id else "the registry"
        what = "was lost before the answer was complete" if self.answered else "cannot be reached, or was lost"
        return self._way.routing.unreachable(f"{who} at {endpoint.address} {what}")
