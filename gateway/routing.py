"""The director on the live snapshot, with the misses settled."""

from __future__ import annotations

from typing import Final, Protocol

from gateway.director import Endpoint, Target, direct
from gateway.misses import Misses
from gateway.snapshot import SnapshotView
from stackmesh.errors import BackendUnreachable, NotFound, RegistryUnreachable, Unavailable
from stackmesh.routes import Method


class Routing(Protocol):
    """Where the calls of a method go now. Asked again for every try."""

    unreachable: type[Unavailable]
    """What it means when the endpoint of a call cannot be reached."""

    async def target(self, method: Method, name: str, within: float) -> Target:
        """The target, within so many seconds. Raises what the director raises, or RegistryUnreachable."""
        ...


class ByName:
    """To the instances that serve what is named."""

    unreachable: type[Unavailable] = BackendUnreachable

    def __init__(self, view: SnapshotView, misses: Misses) -> None:
        self._view = view
        self._misses = misses

    async def target(self, method: Method, name: str, within: float) -> Target:
        try:
            return self._direct(method, name)
        except NotFound:
            await self._misses.settle(within)
            return self._direct(method, name)

    def _direct(self, method: Method, name: str) -> Target:
        snapshot = self._view.snapshot
        if snapshot is None:
            raise RegistryUnreachable("the gateway has not reached the registry yet")
        return direct(method, name, snapshot)


class ToRegistry:
    """To the registry, whatever the snapshot says."""

    unreachable: type[Unavailable] = RegistryUnreachable

    def __init__(self, address: str) -> None:
        self._target: Final = Target((Endpoint("", address),))

    async def target(self, method: Method, name: str, within: float) -> Target:
        return self._target
