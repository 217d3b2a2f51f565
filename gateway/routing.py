"""The director on the live snapshot, with the misses settled."""

from __future__ import annotations

import math
from typing import Final, Protocol

from gateway.director import Target, direct
from gateway.misses import Misses
from gateway.snapshot import Endpoint, SnapshotView
from stackmesh.errors import BackendUnreachable, RegistryUnreachable, Unavailable
from stackmesh.routes import Method


class Routing(Protocol):
    """Where the calls of a method go now. Asked again for every try."""

    unreachable: type[Unavailable]
    """What it means when the endpoint of a call cannot be reached."""
    repeats_within: float
    """Seconds from its start within which an idempotent call that was answered UNAVAILABLE is repeated elsewhere."""

    def target(self, method: Method, name: str) -> Target:
        """The target as far as is known. Raises what the director raises, or RegistryUnreachable."""
        ...

    async def settle(self, within: float) -> None:
        """After NotFound: learn all that was registered before. Raises RegistryUnreachable after `within` seconds."""
        ...


class ByName:
    """To the instances that serve what is named."""

    unreachable: type[Unavailable] = BackendUnreachable
    repeats_within: float = math.inf

    def __init__(self, view: SnapshotView, misses: Misses) -> None:
        self._view = view
        self._misses = misses

    def target(self, method: Method, name: str) -> Target:
        snapshot = self._view.snapshot
        if snapshot is None:
            raise RegistryUnreachable("the gateway has not reached the registry yet")
        return direct(method, name, snapshot)

    async def settle(self, within: float) -> None:
        await self._misses.settle(within)


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

    async def settle(self, within: float) -> None:
        """There is nothing to learn."""
