"""The director on the live snapshot, with the misses settled."""

from __future__ import annotations

import math
from typing import Final, Protocol

from gateway.director import Target, direct
from gateway.misses import Misses
from gateway.refusals import refusal
from gateway.snapshot import Endpoint, Snapshot, SnapshotView
from gateway.standing import Standing
from stackmesh.errors import BackendUnreachable, NotFound, RegistryUnreachable, Unavailable
from stackmesh.routes import Method


class Routing(Protocol):
    """Where the calls of a method go now. Asked again for every try."""

    unreachable: type[Unavailable]
    """What it means when the endpoint of a call cannot be reached."""
    repeats_within: float
    """Seconds from its start within which an idempotent call that was answered UNAVAILABLE is repeated elsewhere."""

    def target(self, method: Method, name: str) -> Target | None:
        """The target as far as is known; None for a miss. Raises InvalidField, or RegistryUnreachable."""
        ...

    async def settled(self, method: Method, name: str, within: float) -> Target:
        """After a miss: the target, once all is known that was acknowledged before. Raises what the refusal is, or
        RegistryUnreachable after `within` seconds.
        """
        ...


class ByName:
    """To the instances that serve what is named."""

    unreachable: type[Unavailable] = BackendUnreachable
    repeats_within: float = math.inf

    def __init__(self, view: SnapshotView, misses: Misses, standing: Standing) -> None:
        self._view = view
        self._misses = misses
        self._standing = standing

    def target(self, method: Method, name: str) -> Target | None:
        return direct(method, name, self._snapshot)

    async def settled(self, method: Method, name: str, within: float) -> Target:
        unsettled: RegistryUnreachable | None = None
        try:
            await self._misses.settle(within)
        except RegistryUnreachable as error:
            unsettled = error
        if (target := self.target(method, name)) is not None:
            return target
        refused = refusal(method, name, self._snapshot)
        if unsettled is None:
            raise refused
        if isinstance(refused, NotFound):  # of that nothing is known here
            raise unsettled
        doubt = self._standing.doubt
        raise type(refused)(f"{refused.message} ({doubt})", metadata=refused.metadata) if doubt else refused

    @property
    def _snapshot(self) -> Snapshot:
        if self._view.snapshot is None:
            raise RegistryUnreachable("the gateway has not reached the registry yet")
        return self._view.snapshot


class ToRegistry:
    """To the registry, whatever the snapshot says."""

    unreachable: type[Unavailable] = RegistryUnreachable
    repeats_within: float = 0.4
    """A replica that took longer has waited for its store, and the others have the same; callers hear within 3 s."""

    def __init__(self, addresses: str) -> None:
        """`registry.address` of the configuration: any of its replicas will do."""
        self._target: Final = Target(tuple(Endpoint("", address) for address in addresses.split(",")))

    def target(self, method: Method, name: str) -> Target:
        return self._target

    async def settled(self, method: Method, name: str, within: float) -> Target:
        return self._target
