from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from gateway.snapshot import Snapshot, SnapshotView, built
from stackmesh.registry.v1 import resources_pb2 as rows, watch_service_pb2 as pb
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType
from stackmesh.tasks import background
from tests.unit.gateway.known import INFERENCE, changes, gone, handover, hosting, instance, model, provider, snapshot

MODEL = ResourceType.RESOURCE_TYPE_MODEL
NAMES = st.sampled_from(["a", "b", "org/c:8b"])
ENTRIES = st.one_of(
    st.builds(model, NAMES, st.sampled_from(["p", "q"])),
    st.builds(handover, NAMES, st.sampled_from(["p", "q"])),
    st.builds(provider, st.sampled_from(["p", "q"]), NAMES),
    st.builds(instance, st.sampled_from(["i", "j"]), st.sampled_from(["p", "q"])),
)
CHANGES = st.lists(st.one_of(ENTRIES, ENTRIES.map(gone)), max_size=30)


@given(CHANGES)
def test_step_by_step_equals_all_at_once(entries):
    stepped = Snapshot()
    for revision, entry in enumerate(entries, 1):
        stepped = stepped.after(changes(entry), revision)
    last = {entry.key: entry for entry in entries}
    view = SnapshotView()
    view.replace([e for e in last.values() if e.WhichOneof("value")], len(entries))
    assert stepped == view.snapshot


@given(CHANGES, CHANGES)
def test_a_snapshot_never_changes(before, after):
    first = Snapshot().after(changes(*before), 1)
    same = Snapshot().after(changes(*before), 1)
    first.after(changes(*after), 2)
    assert first == same


def test_only_the_maps_that_change_are_copied():
    first = snapshot(model("a"), provider("p", "a"), instance("i", "p"))
    second = first.after(changes(instance("j", "p")), 8)
    assert second.resources(MODEL) is first.resources(MODEL)
    assert second.providers == first.providers
    assert set(second.instances) == {"i", "j"}
    assert set(first.instances) == {"i"}


@given(CHANGES)
def test_who_hosts_a_provider_is_what_the_instances_say(entries):
    stepped = Snapshot()
    for revision, entry in enumerate(entries, 1):
        stepped = stepped.after(changes(entry), revision)
    for name in ("p", "q"):
        told = {i for i, each in stepped.instances.items() if (INFERENCE, name) in each.hosts}
        assert {host.endpoint.instance_id for host in stepped.hosts((INFERENCE, name))} == told


@given(CHANGES)
def test_it_can_be_made_from_its_own_entries_again(entries):
    first = Snapshot().after(changes(*entries), 5)
    assert Snapshot().after(changes(*first.entries()), 5) == first


def test_every_type_of_resource_is_known_by_its_own_name():
    entries = []
    for kind in KINDS.values():
        row = kind.message(identifier="same", provider_id="p", provider_resource_id=kind.word)
        entries.append(pb.Entry(key=f"{kind.word}/same", **{kind.word: row}))
    known = snapshot(*entries)
    for resource_type, kind in KINDS.items():
        assert known.resources(resource_type)["same"].provider_resource_id == kind.word
    without = known.after(changes(gone(entries[1])), 8)
    assert [len(without.resources(resource_type)) for resource_type in KINDS] == [1, 0, 1, 1]


def test_its_entries_have_nothing_that_routing_does_not_need():
    entry = model("m")
    entry.model.metadata.update({"secret": "hidden"})
    hosted = hosting("p", problem="cold", not_served=("x",))
    hosted.failures.append(rows.Failure(provider_resource_id="x", reason="no such file"))
    down = hosting("q", serves_nothing=True)
    kept = list(snapshot(entry, instance("i", hosted, down)).entries())
    assert kept == [instance("i", hosted, down), model("m")]


def test_what_was_worked_out_goes_with_the_snapshot():
    first = snapshot(model("a"))
    first.memo["x"] = 1
    assert first.after([], 8).memo == {}


def test_entries_of_a_later_version_are_passed_over():
    entry = gone(model("x"))
    for key in ("toolgroup/x", "provider/telepathy/x", "nonsense"):
        entry.key = key
        assert snapshot(entry) == Snapshot(revision=7)


def test_it_says_what_it_holds():
    text = repr(snapshot(model("a"), provider("p"), instance("i", "p")))
    assert text == "<Snapshot [revision 7, 1 models, 1 providers, 1 instances]>"


async def test_those_who_wait_see_the_latest():
    view = SnapshotView()
    waiting = asyncio.create_task(view.changed(None))
    await asyncio.sleep(0)
    view.replace([model("a")], 3)
    view.apply(changes(model("b")), 4)
    async with asyncio.timeout(1):
        assert (await waiting).revision == 4


class Ticks:
    """How often the loop has come round."""

    count = 0

    async def run(self):
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def test_others_have_their_turn_while_a_large_one_is_made():
    entries, ticks = [model(f"m{number}") for number in range(10_000)], Ticks()
    async with background(ticks.run(), "tick"):
        await asyncio.sleep(0)
        before = ticks.count
        made = await built(entries, 7, "one")
        assert ticks.count >= before + 10
        before, view = ticks.count, SnapshotView()
        view.replace(entries, 7, "one")
        assert ticks.count == before  # the control: made at once it leaves nobody a turn
    assert made == view.snapshot
