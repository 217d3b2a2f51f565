"""However an answer is cut, whole revisions come of it, and no later than they must."""

import itertools

import pytest

from registry_service.etcd.assembler import Assembler
from stackmesh.etcd.v1 import etcd_pb2 as pb

REVISIONS = [[(4, "a"), (4, "b"), (4, "c")], [(5, "a")], [(7, "b"), (7, "c")]]
EVENTS = [event for revision in REVISIONS for event in revision]


def piece(events, fragment):
    made = [pb.Event(kv=pb.KeyValue(key=key.encode(), mod_revision=revision)) for revision, key in events]
    return pb.WatchResponse(events=made, fragment=fragment)


def cut(at):
    """The answer, cut before each of these events."""
    ends = [0, *at, len(EVENTS)]
    return [piece(EVENTS[a:b], b < len(EVENTS)) for a, b in itertools.pairwise(ends)]


def plain(revisions):
    return [[(event.kv.mod_revision, event.kv.key.decode()) for event in events] for events in revisions]


def comes_whole_and_in_time(kind):
    for count in range(len(EVENTS)):
        for at in itertools.combinations(range(1, len(EVENTS)), count):
            assembler, given = kind(), []
            for upto, answer in zip([*at, len(EVENTS)], cut(at), strict=True):
                given += plain(assembler.take(answer))
                complete = [r for r in REVISIONS if r[-1][0] < EVENTS[upto - 1][0]] if answer.fragment else REVISIONS
                assert given == complete


class Hasty(Assembler):
    """Takes the end of a piece for the end of a revision."""

    def take(self, answer):
        return super().take(pb.WatchResponse(events=answer.events))


class Hoarding(Assembler):
    """Waits for the end of the answer."""

    def __init__(self):
        super().__init__()
        self._held = []

    def take(self, answer):
        self._held += super().take(answer)
        if answer.fragment:
            return []
        held, self._held = self._held, []
        return held


def test_revisions_come_whole_and_in_time():
    comes_whole_and_in_time(Assembler)


@pytest.mark.parametrize("kind", [Hasty, Hoarding])
def test_that_check_finds(kind):
    with pytest.raises(AssertionError):
        comes_whole_and_in_time(kind)


def test_an_answer_without_events_gives_nothing():
    assert not Assembler().take(piece([], fragment=False))
