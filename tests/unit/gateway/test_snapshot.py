from __future__ import annotations

import asyncio

from hypothesis import given, strategies as st

from gateway.snapshot import Snapshot, SnapshotView
from tests.unit.gateway.known import changes, gone, instance, model, provider, snapshot

NAMES = st.sampled_from(["a", "b", "org/c:8b"])
ENTRIES = st.one_of(
    st.builds(model, NAMES, st.sampled_from(["p", "q"])),
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
    assert second.models is first.models
    assert second.providers is first.providers
    assert set(second.instances) == {"i", "j"}
    assert set(first.instances) == {"i"}


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
