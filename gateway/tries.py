"""One call of a client and its tries upstream: where each goes, and whether there is a next one.

A call is tried elsewhere only if it was never processed, or if its method is idempotent; only before anything of an
answer was seen; only before a stream of requests was begun, for what was read of it is gone; at most FURTHER_TRIES
times, within its deadline.
"""

from __future__ import annotations

import time
from typing import Any, Final, Self

import grpc

from gateway import failures, metadata
from gateway.balancer import Balancer
from gateway.channels import Upstream
from gateway.director import Endpoint, Target
from gateway.routing import Routing
from stackmesh.errors import Timeout, Unavailable
from stackmesh.routes import Method

FURTHER_TRIES: Final = 2


class Try:
    """A call on one upstream. Leaving its `with` block cancels what is left of it."""

    def __init__(self, tries: Tries, target: Target, upstream: Upstream) -> None:
        self._tries = tries
        self.target = target
        self.upstream = upstream
        self.call: Any = None
        self.answered = False
        """Whether initial metadata has gone to the client, so that there is no other try."""
        self.spent = False
        """Whether requests have been read that no other try could send again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.call is not None:
            self.call.cancel()
        self._tries.balancer.release(self.upstream)

    def start(self, *request: bytes) -> Any:
        """Begin the call, of grpc.aio."""
        tries = self._tries
        forwarded = metadata.Sent(*tries.incoming.forwarded, *self.target.routed)
        self.call = self.upstream.callable(tries.method)(*request, timeout=tries.remaining(), metadata=forwarded)
        return self.call

    async def answer(self, initial: grpc.aio.Metadata, context: Any) -> None:
        """Pass the upstream's initial metadata on, and say who it was."""
        self.answered = True
        self._tries.balancer.answered(self.upstream)
        passed_on = metadata.answered(initial) if initial else ()
        await context.send_initial_metadata((*passed_on, *self.upstream.answered_by, *self.target.answered))

    async def fail(self, error: grpc.aio.AioRpcError, context: Any) -> None:
        """Returns if there shall be another try. Else it passes the upstream's status on, or raises what it means."""
        lost = failures.lost(error)
        if lost:
            self._tries.balancer.failed(self.upstream)
        if not self.answered and not self.spent and self._tries.again(error, self):
            return
        if lost:
            raise self._tries.unreachable(self.upstream.endpoint, begun=self.answered) from None
        if self._tries.imposed and failures.timed_out(error):
            raise Timeout(
                f"the call took longer than the {self._tries.timeout:g} s allowed without a deadline"
            ) from None
        if not self.answered:
            await self.answer(error.initial_metadata(), context)
        await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata()))


class Tries:
    """The tries of one call. `timeout` is in seconds from now; `imposed`: it is the gateway's, not the client's."""

    def __init__(
        self,
        method: Method,
        routing: Routing,
        balancer: Balancer,
        incoming: metadata.Incoming,
        timeout: float,
        *,
        imposed: bool,
    ) -> None:
        self.method = method
        self.balancer = balancer
        self.incoming = incoming
        self.timeout = timeout
        self.imposed = imposed
        self._routing = routing
        self._until = time.monotonic() + timeout
        self._tried: list[Endpoint] = []

    def remaining(self) -> float:
        """Seconds left."""
        return max(self._until - time.monotonic(), 0)

    async def next(self, name: str) -> Try:
        """The next try, on an upstream that was not tried yet."""
        target = await self._routing.target(self.method, name, self.remaining())
        upstream = self.balancer.pick(target.endpoints, self._tried)
        if upstream is None:  # the others have left since
            raise self.unreachable(self._tried[-1])
        return Try(self, target, upstream)

    def again(self, error: grpc.aio.AioRpcError, tried: Try) -> bool:
        """Whether a failed try that has answered nothing is followed by another one."""
        safe = failures.unprocessed(error, tried.upstream.channel) or (
            self.method.idempotent and error.code() is grpc.StatusCode.UNAVAILABLE
        )
        if not safe or len(self._tried) >= FURTHER_TRIES or not self.remaining():
            return False
        self._tried.append(tried.upstream.endpoint)
        return any(endpoint not in self._tried for endpoint in tried.target.endpoints)

    def unreachable(self, endpoint: Endpoint, *, begun: bool = False) -> Unavailable:
        """What it means to the caller that the connection to an endpoint failed or broke."""
        who = f"instance {endpoint.instance_id}" if endpoint.instance_id else "the registry"
        what = "was lost before the answer was complete" if begun else "cannot be reached, or was lost"
        return self._routing.unreachable(f"{who} at {endpoint.address} {what}")
