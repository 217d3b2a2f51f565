import pytest

from registry_service.filters import EVERYTHING, Wanted
from registry_service.mirror.ring import BATCH_BYTES, Ring, Whole
from registry_service.mirror.telling import tell
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb

MINE = Wanted(provider_ids=frozenset({"mine"}))


def change(name, revision, provider="mine", before="", size=0):
    metadata = {"x": "x" * size} if size else {}
    model = resources_pb2.Model(identifier=name, provider_id=provider, metadata=metadata, revision=revision)
    return tell(pb.Change(entry=pb.Entry(key=f"model/{name}", model=model), revision=revision), before)


def gone(name, revision, before):
    return tell(pb.Change(entry=pb.Entry(key=f"model/{name}"), revision=revision), before)


def filled(count, **limits):
    ring = Ring(0, **limits)
    for revision in range(1, count + 1):
        ring.append(Whole(revision, [change("a", revision), change("b", revision)]))
    return ring


def taken(ring, position, wanted=EVERYTHING):
    message, position = ring.take(position, wanted)
    return pb.WatchResponse.FromString(message), position


@pytest.mark.parametrize("start", range(1, 12))
def test_it_is_read_from_anywhere_in_whole_revisions(start):
    said, position = taken(filled(10), start)
    assert [c.revision for c in said.changes] == sorted([*range(start, 11)] * 2)
    assert (said.revision, position) == (10 if start < 11 else 0, 11)


def test_what_is_too_much_goes_and_the_base_says_how_far():
    ring = filled(1000, most_changes=100)
    said, _ = taken(ring, ring.base + 1)
    assert 70 <= len(said.changes) <= 100
    assert said.changes[0].revision == ring.base + 1
    ring = Ring(0, most_bytes=10_000)
    for revision in range(1, 100):
        ring.append(Whole(revision, [change("a", revision, size=900)]))
    assert 7 <= len(taken(ring, ring.base + 1)[0].changes) <= 10
    ring.append(Whole(100, [change("a", 100, size=20_000)]))
    assert ring.base == 99  # the last one stays, whatever its size
    assert taken(ring, 100)[0].revision == 100
    assert (ring.emptied(7).base, taken(ring.emptied(7), 8)) == (7, (pb.WatchResponse(), 8))


def test_one_answer_is_bounded_and_never_splits_a_revision():
    ring = Ring(0)
    for revision in range(1, 31):
        ring.append(Whole(revision, [change(name, revision, size=50_000) for name in "ab"]))
    ring.append(Whole(31, [change(name, 31, size=BATCH_BYTES) for name in "ab"]))
    position, seen = 1, []
    while position < 32:
        message, following = ring.take(position, EVERYTHING)
        said = pb.WatchResponse.FromString(message)
        assert len(message) <= BATCH_BYTES + 100 or [c.revision for c in said.changes] == [31, 31]
        assert {c.revision for c in said.changes} == set(range(position, following))
        assert said.revision == following - 1
        position, seen = following, [*seen, *(c.revision for c in said.changes)]
    assert seen == sorted([*range(1, 32)] * 2)


def test_a_filter_sees_its_own_and_what_has_left_it():
    ring = Ring(0)
    for revision, told in enumerate(
        [
            change("a", 1, "mine"),
            change("b", 2, "yours"),
            change("b", 3, "mine", before="yours"),
            change("a", 4, "yours", before="mine"),
            change("a", 5, "yours", before="yours"),
            gone("a", 6, before="yours"),
            gone("b", 7, before="mine"),
            change("c", 8, "yours", before=None),
            gone("d", 9, before=None),
        ],
        1,
    ):
        ring.append(Whole(revision, [told]))
    said, position = taken(ring, 1, MINE)
    told = [(c.revision, c.entry.key, c.entry.WhichOneof("value")) for c in said.changes]
    assert told == [
        (1, "model/a", "model"),
        (3, "model/b", "model"),
        (4, "model/a", None),
        (7, "model/b", None),
        (8, "model/c", None),
        (9, "model/d", None),
    ]
    assert position == 10
    assert taken(ring, 1, Wanted(prefixes=frozenset({"shield/"}))) == (pb.WatchResponse(), 10)
