"""The connections to what answers calls: one channel per live instance, opened when first called.

An instance that leaves the registry gets no new call; its channel closes when the last call in flight on it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, Final, Self

import grpc

from gateway.files import Files
from gateway.snapshot import Endpoint, Snapshot, SnapshotView
from stackmesh import headers
from stackmesh.errors import ResourceExhausted
from stackmesh.routes import Method
from stackmesh.transport import internal_channel

log = logging.getLogger(__name__)

EJECT_FIRST: Final = 0.5
EJECT_LIMIT: Final = 30.0
"""Seconds that calls are kept away after a failure: doubling from the first to the limit while it goes on failing."""


class Upstream:
    """One endpoint as this gateway sees it: its channel, what it works on, how it has been."""

    def __init__(self, endpoint: Endpoint, channel: grpc.aio.Channel) -> None:
        self.endpoint = endpoint
        self.channel = channel
        self.requests_in_flight = 0
        self.picked = 0
        """When it was last picked, counted in picks."""
        self.failures = 0
        """Connection failures in a row."""
        self.ejected_until = -math.inf
        """On the balancer's clock."""
        self.leaving = False
        self.answered_by = ((headers.SERVED_BY, endpoint.instance_id),) if endpoint.instance_id else ()
        """What it adds to the initial metadata of its answers."""
        self.bound = ((headers.INSTANCE_ID, endpoint.instance_id),) if endpoint.instance_id else ()
        """What is sent with every call, so that who has its address now does not take the call for its own."""
        self._callables: dict[str, Any] = {}

    def callable(self, method: Method) -> Any:
        """What starts a call of `method`, bytes in and bytes out."""
        found = self._callables.get(method.path)
        if found is None:
            shapes: dict[tuple[bool, bool], Any] = {
                (False, False): self.channel.unary_unary,
                (False, True): self.channel.unary_stream,
                (True, False): self.channel.stream_unary,
                (True, True): self.channel.stream_stream,
            }
            found = self._callables[method.path] = shapes[method.client_streaming, method.server_streaming](method.path)
        return found

    def __repr__(self) -> str:
        state = "leaving" if self.leaving else f"{self.failures} failures" if self.failures else "good"
        return f"<Upstream {self.endpoint.instance_id} {self.endpoint.address} [{state}, {self.requests_in_flight}]>"


class Channels:
    """The upstreams, by endpoint. `run` is its background work; leaving it closes every channel."""

    def __init__(
        self,
        open_channel: Callable[[str], grpc.aio.Channel] = internal_channel,
        files: Files | None = None,
    ) -> None:
        """`files` limits how many there can be. By default it is this process's own limit."""
        self._open = open_channel
        self._files = files or Files.of_this_process()
        self._upstreams: dict[Endpoint, Upstream] = {}
        self._leaving: set[Upstream] = set()
        self._idle: asyncio.Queue[Upstream] = asyncio.Queue()

    def get(self, endpoint: Endpoint) -> Upstream:
        """The upstream of an endpoint of the latest snapshot, or of the registry's.

        Raises ResourceExhausted when there can be no further one.
        """
        found = self._upstreams.get(endpoint)
        if found is None:
            found = self._upstreams[endpoint] = self._opened(endpoint)
        return found

    def _opened(self, endpoint: Endpoint) -> Upstream:
        count = len(self._upstreams) + len(self._leaving)
        if endpoint.instance_id and count >= self._files.room:
            raise ResourceExhausted(
                f"no connection can be opened to instance {endpoint.instance_id}: {self._files.shortage(count + 1)}"
            )
        return Upstream(endpoint, self._open(endpoint.address))

    def shortage(self, snapshot: Snapshot) -> str:
        """What is wrong when there cannot be a connection to every instance. Empty: nothing."""
        return self._files.shortage(len(snapshot.instances))

    def peek(self, endpoint: Endpoint) -> Upstream | None:
        """The upstream if it was ever called."""
        return self._upstreams.get(endpoint)

    def release(self, upstream: Upstream) -> None:
        """A call on it has ended."""
        upstream.requests_in_flight -= 1
        if upstream.leaving and not upstream.requests_in_flight:
            self._idle.put_nowait(upstream)

    def retain(self, snapshot: Snapshot) -> None:
        """Let go of every instance the snapshot does not have."""
        live = {instance.endpoint for instance in snapshot.instances.values()}
        for endpoint in [e for e in self._upstreams if e.instance_id and e not in live]:
            upstream = self._upstreams.pop(endpoint)
            upstream.leaving = True
            self._leaving.add(upstream)
            if not upstream.requests_in_flight:
                self._idle.put_nowait(upstream)

    async def follow(self, view: SnapshotView) -> None:
        """Keep to the view's latest snapshot, for ever."""
        seen: Snapshot | None = None
        short = ""
        while True:
            latest = await view.changed(seen)
            if seen is None or latest.instances is not seen.instances:
                self.retain(latest)
                short, before = self.shortage(latest), short
                if short and not before:
                    log.error("%s", short)
            seen = latest

    async def close_idle(self) -> None:
        """Close the channels of instances that have left, each once nothing is in flight on it, for ever."""
        while True:
            upstream = await self._idle.get()
            await upstream.channel.close()
            self._leaving.discard(upstream)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for upstream in (*self._upstreams.values(), *self._leaving):
            await upstream.channel.close()

    def __repr__(self) -> str:
        return f"<Channels {list(self._upstreams.values())} [{len(self._leaving)} leaving]>"
