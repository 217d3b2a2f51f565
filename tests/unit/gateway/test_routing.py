"""What was acknowledged before a call counts in it, however late the snapshot is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from gateway.misses import Misses
from gateway.routing import ByName
from gateway.snapshot import SnapshotView
from gateway.standing import Standing
from stackmesh.errors import NoInstance, NotServing, RegistryUnreachable, ResourceNotFound
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.routes import Method
from stackmesh.tasks import background
from tests.unit.gateway.known import CHAT, DEFAULT, changes, gone, instance, model, provider

COLD = (model("m"), provider("p"), instance("i", "p"))


class Heard:
    """A reflector as far as it matters."""

    age = 60.0
    stale = False


class Mesh:
    """A gateway whose snapshot lacks the registry's last write until it is waited for."""

    def __init__(self, kind: type[ByName], known: Sequence[pb.Entry], *written: pb.Entry) -> None:
        self.away = False
        self.heard = Heard()
        self.view = SnapshotView()
        self.view.replace(known, 1, "one")
        self._written = changes(*written)
        self._misses = Misses(self._read, self._reached)
        self._routing = kind(self.view, self._misses, Standing(self.view, self.heard))

    async def _read(self) -> tuple[int, str]:
        if self.away:
            raise RegistryUnreachable("there is no registry")
        return 2, "one"

    async def _reached(self, revision: int, store_id: str) -> None:
        self.view.apply(self._written, revision)

    async def target(self, method: Method, name: str):
        """As a call finds it."""
        async with asyncio.timeout(5), background(self._misses.run(), "misses"):
            found = self._routing.target(method, name)
            return found if found is not None else await self._routing.settled(method, name, 3.0)


async def check_read_your_own_writes(kind: type[ByName]) -> None:
    for known, written, method, name in (
        (COLD[1:], [model("m"), provider("p", "m")], CHAT, "m"),  # registered
        (COLD, [provider("p", "m")], CHAT, "m"),  # served
        (COLD[:2], [provider("p", "m"), instance("i", "p")], CHAT, "m"),  # hosted
        (COLD[:2], [instance("i", "p")], DEFAULT, ""),
        ((), COLD, DEFAULT, ""),
    ):
        target = await Mesh(kind, known, *written).target(method, name)
        assert [endpoint.instance_id for endpoint in target.endpoints] == ["i"]


class OnlyTheUnknown(ByName):
    """The planted bug: what is registered is answered from the snapshot as it is."""

    async def settled(self, method: Method, name: str, within: float):
        if self.target(method, name) is None and self._view.snapshot.resources(1).get(name) is not None:
            raise NotServing("as far as is known here")
        return await super().settled(method, name, within)


async def test_read_your_own_writes():
    await check_read_your_own_writes(ByName)


async def test_control_an_answer_from_a_late_snapshot_is_noticed():
    with pytest.raises(NotServing):
        await check_read_your_own_writes(OnlyTheUnknown)


async def test_what_is_settled_is_told_as_it_is():
    with pytest.raises(ResourceNotFound, match="no model is called 'm'"):
        await Mesh(ByName, COLD, gone(COLD[0])).target(CHAT, "m")
    with pytest.raises(NoInstance, match="no instance of the provider p is running"):
        await Mesh(ByName, COLD, gone(COLD[2])).target(CHAT, "m")


async def test_without_a_registry_what_is_known_is_told_and_how_old_it_is():
    mesh = Mesh(ByName, COLD)
    mesh.away = True
    with pytest.raises(RegistryUnreachable):
        await mesh.target(CHAT, "unknown")
    with pytest.raises(NotServing) as fresh:
        await mesh.target(CHAT, "m")
    assert "silent" not in fresh.value.message
    mesh.heard.stale = True
    with pytest.raises(NotServing) as old:
        await mesh.target(CHAT, "m")
    assert "does not serve m now" in old.value.message
    assert "the registry has been silent for 60 s" in old.value.message
    assert old.value.metadata == fresh.value.metadata
