"""Instances that vanish with an outage of the registry are kept for the grace, and no others."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings, strategies as st

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


async def check_came_and_went_in_one_step(kind: type[Grace]) -> None:
    """A watch joins revisions: one answer may hold what an instance said last, and its end."""
    mesh = Mesh(kind, 0.1)
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace(MESH, 4)
        mesh.source.comes_back()
        late, new = instance("i", "p", address="h:9"), instance("new", "p")
        mesh.grace.apply(changes(late, gone(late), new, gone(new), MESH[3]), 8)
        assert mesh.live == {"i", "j"}
        assert mesh.view.snapshot.instances["i"].endpoint.address == "h:9"
        await until(lambda: mesh.live == {"j"}, 2)


async def check_kept_once_by_a_registry_that_flaps(kind: type[Grace], within: float = 2) -> None:
    mesh = Mesh(kind, 0.1)
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace(MESH, 4)
        mesh.source.comes_back()
        mesh.grace.apply(changes(gone(MESH[2])), 5)
        assert mesh.live == {"i", "j"}

        async def flap() -> bool:
            mesh.source.comes_back()
            await mesh.grace.replace((*MESH[:2], MESH[3]), 6)
            return mesh.live == {"j"}

        await until(flap, within)


async def check_kept_by_who_started_from_a_file(kind: type[Grace]) -> None:
    mesh = Mesh(kind, 0.3)
    mesh.view.replace(MESH, 4, "one", saved_at=1.0)
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace((*MESH[:2], MESH[2]), 9)
        assert mesh.live == {"i", "j"}
        assert mesh.view.snapshot.saved_at is None
        mesh.grace.apply(changes(gone(MESH[2])), 10)
        assert mesh.live == {"i", "j"}
        await until(lambda: mesh.live == set(), 2)


class Zombies(Grace):
    """The planted bugs: whatever ends an instance is left out, and a flapping registry begins anew."""

    def apply(self, changes, revision):
        deleted = {c.entry.key.removeprefix("instance/") for c in changes if c.entry.WhichOneof("value") is None}
        back = {c.entry.key.removeprefix("instance/") for c in changes if c.entry.HasField("instance")}
        self._keep(deleted - back)
        self._view.apply([change for change in changes if change.entry.WhichOneof("value")], revision)

    async def replace(self, entries, revision):
        self._kept.clear()
        await super().replace(entries, revision)


class Unaware(Zombies):
    """The planted bug: a file is no reason."""

    async def replace(self, entries, revision):
        self._view.replace(entries, revision, "one")


LET_GO = [
    (check_came_and_went_in_one_step, Zombies),
    (check_kept_once_by_a_registry_that_flaps, Zombies),
    (check_kept_by_who_started_from_a_file, Unaware),
]


@pytest.mark.parametrize("check", [check for check, _ in LET_GO])
async def test_the_dead_are_let_go(check):
    await check(Grace)


@pytest.mark.parametrize(("check", "bug"), LET_GO)
async def test_control_the_undead_are_noticed(check, bug):
    with pytest.raises((AssertionError, TimeoutError)):
        await (check(bug, 0.5) if check is check_kept_once_by_a_registry_that_flaps else check(bug))


INSTANCES = st.builds(instance, st.sampled_from(["i", "j", "k"]), st.sampled_from(["p", "q"]))
BATCHES = st.lists(st.lists(st.one_of(INSTANCES, INSTANCES.map(gone)), max_size=6), max_size=6)


async def check_equals_a_list(kind: type[Grace], batches, listed_after: int, within: float = 2) -> None:
    """After whatever is told meanwhile, when the grace is over."""
    mesh, truth = Mesh(kind, 0.005), SnapshotView()
    entries = {entry.key: entry for entry in MESH}
    async with background(mesh.grace.run(), "grace"):
        await mesh.grace.replace(MESH, 1)
        mesh.source.comes_back()
        for revision, batch in enumerate(batches, 2):
            entries.update({entry.key: entry for entry in batch})
            there = [entry for entry in entries.values() if entry.WhichOneof("value")]
            truth.replace(there, revision, "one")
            if revision - 2 == listed_after:
                await mesh.grace.replace(there, revision)
            else:
                mesh.grace.apply(changes(*batch), revision)
        await until(lambda: truth.snapshot in (None, mesh.view.snapshot), within)


@given(BATCHES, st.integers(0, 6))
@settings(max_examples=60)
def test_whatever_is_told_when_the_grace_is_over_it_equals_a_list(batches, listed_after):
    asyncio.run(check_equals_a_list(Grace, batches, listed_after))


async def test_control_a_zombie_is_noticed_by_that():
    batch = [instance("i", "q"), gone(instance("i"))]
    with pytest.raises(TimeoutError):
        await check_equals_a_list(Zombies, [batch], 6, 0.2)
