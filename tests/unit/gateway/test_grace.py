"""Instances that vanish with an outage of the registry are kept for the grace, and no others."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway.grace import Grace
from gateway.snapshot import SnapshotView
from stackmesh.tasks import background
from tests.unit.gateway.known import changes, gone, instance, model, provider
from tests.waiting import until

MESH = (model("m"), provider("p", "m"), instance("i", "p"), instance("j", "p"))


class Source:
    """A registry that is back since a moment the test sets."""

    store_id = "one"

    def __init__(self) -> None:
        self._back_at = -math.inf

    def comes_back(self) -> None:
        self._back_at = asyncio.get_running_loop().time()

    @property
    def back_for(self) -> float:
        return asyncio.get_running_loop().time() - self._back_at


class Mesh:
    """A snapshot behind the view under test."""

    def __init__(self, kind: type[Grace], seconds: float) -> None:
        self.source = Source()
        self.view = SnapshotView()
        self.grace = kind(self.view, lambda: self.source, seconds)

    @property
    def live(self) -> set[str]:
        assert self.view.snapshot is not None
        return set(self.view.snapshot.instances)


class Hasty(Grace):
    """The planted bug: no grace."""

    @property
    def _open(self) -> bool:
        return False


async def check_kept_until_back(kind: type[Grace]) -> None:
    """Told by deletions: what comes back within the grace was never away; what does not goes when it ends."""
    mesh = Mesh(kind, 0.3)
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace(MESH, 4)
        mesh.source.comes_back()
        mesh.grace.apply(changes(gone(MESH[2]), gone(MESH[3]), gone(MESH[0])), 5)
        assert mesh.live == {"i", "j"}
        assert mesh.view.snapshot.revision == 5
        assert not mesh.view.snapshot.resources(1)  # nothing else is kept
        mesh.grace.apply(changes(instance("i", "p", address="h:9")), 6)
        await until(lambda: mesh.live == {"i"}, 2)
        assert mesh.source.back_for >= 0.3
        assert mesh.view.snapshot.instances["i"].endpoint.address == "h:9"


async def check_kept_over_a_list(kind: type[Grace]) -> None:
    mesh = Mesh(kind, 0.3)
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace(MESH, 4)
        mesh.source.comes_back()
        await mesh.grace.replace(MESH[:2], 9)
        assert mesh.live == {"i", "j"}
        mesh.grace.apply(changes(MESH[2]), 10)
        await until(lambda: mesh.live == {"i"}, 2)
        assert mesh.source.back_for >= 0.3


CHECKS = [check_kept_until_back, check_kept_over_a_list]


@pytest.mark.parametrize("check", CHECKS)
async def test_what_vanishes_with_an_outage_is_kept_for_the_grace(check):
    await check(Grace)


@pytest.mark.parametrize("check", CHECKS)
async def test_control_without_a_grace_that_is_noticed(check):
    with pytest.raises(AssertionError):
        await check(Hasty)


async def test_without_an_outage_nothing_is_kept():
    mesh = Mesh(Grace, 10.0)
    await mesh.grace.replace(MESH, 4)
    mesh.grace.apply(changes(gone(MESH[2])), 5)
    assert mesh.live == {"j"}
    await mesh.grace.replace(MESH[:2], 6)
    assert mesh.live == set()


async def test_of_another_store_nothing_is_kept():
    mesh = Mesh(Grace, 10.0)
    await mesh.grace.replace(MESH, 4)
    mesh.source.comes_back()
    mesh.source.store_id = "two"
    await mesh.grace.replace(MESH[:2], 2)
    assert mesh.live == set()


async def test_an_instance_that_is_replaced_in_one_step_is_the_new_one():
    mesh = Mesh(Grace, 10.0)
    await mesh.grace.replace(MESH, 4)
    mesh.source.comes_back()
    mesh.grace.apply(changes(gone(MESH[2]), instance("i", "p", address="h:9")), 5)
    assert mesh.view.snapshot.instances["i"].endpoint.address == "h:9"
    assert not mesh.grace._kept
