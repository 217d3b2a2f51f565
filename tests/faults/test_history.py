"""The checker passes what can have happened, and names each thing that cannot."""

import itertools
import random

import pytest

from tests.faults.history import UNKNOWN, Op, Version, violations


def read(value, revision, invoked, returned):
    return Op("read", "k", value, revision, invoked, returned)


def write(value, revision, invoked, returned, expected=None):
    return Op("write", "k", value, revision, invoked, returned, expected)


def refused(expected, invoked, returned):
    return Op("refused", "k", None, 0, invoked, returned, expected)


def log(*versions):
    return [Version("k", revision, value) for revision, value in versions]


A = write(b"a", 5, 0, 1)
B = write(b"b", 9, 2, 4)
LOG = log((5, b"a"), (9, b"b"))
DELETED = log((5, b"a"), (9, None))
GOOD = {
    "reads of what was there": ([A, B, read(b"a", 5, 1, 2), read(b"b", 9, 5, 6)], LOG),
    "either of two versions during a write": ([A, B, read(b"a", 5, 2, 3), read(b"b", 9, 2, 3)], LOG),
    "absence before the first write": ([read(None, 0, 0, 0.5), A], log((5, b"a"))),
    "absence after the deletion": ([A, write(None, 9, 2, 3, 5), read(None, 0, 4, 5)], DELETED),
    "an unknown write that happened": ([A, write(b"b", 0, 2, UNKNOWN), read(b"b", 9, 90, 91)], LOG),
    "an unknown write that did not": ([A, write(b"b", 0, 2, UNKNOWN), read(b"a", 5, 90, 91)], log((5, b"a"))),
    "an unknown deletion that happened": ([A, write(None, 0, 2, UNKNOWN, 5), read(None, 0, 3, 4)], DELETED),
    "a refusal while another was there": ([A, refused(4, 1.5, 1.6)], log((5, b"a"))),
    "a refusal during the write that was expected": ([A, refused(5, 0.5, 2)], log((5, b"a"))),
    "a refusal to create during a deletion": ([A, write(None, 9, 2, 3), refused(0, 2.5, 4)], DELETED),
}
BAD = {
    "against the clock": ([A, B, read(b"a", 5, 5, 6)], LOG),
    "against the clock: read b'a' at 5 [5.0": (
        [A, write(b"b", 9, 2, 9), read(b"b", 9, 3, 4), read(b"a", 5, 5, 6)],
        LOG,
    ),
    "against the clock: write": ([write(b"a", 5, 2, 3), write(b"b", 9, 0, 1)], LOG),
    "against the clock: write b'b'": ([A, B, read(b"b", 9, 1.2, 1.5)], LOG),
    "against the clock: read None": ([A, read(None, 0, 2, 3)], log((5, b"a"))),
    "lost": ([A, B, read(b"a", 5, 5, 6)], log((5, b"a"))),
    "lost: write b'b'": ([A, B], log((5, b"a"), (9, b"c"))),
    "nobody wrote": ([A], LOG),
    "nobody wrote Version(key='k', revision=9, value=b'a')": (  # resurrected
        [A, write(None, 7, 2, 3, 5), read(b"a", 9, 5, 6)],
        log((5, b"a"), (7, None), (9, b"a")),
    ),
    "against the clock: read b'a'": ([A, write(None, 9, 2, 3, 5), read(b"a", 5, 4, 5)], DELETED),  # resurrected
    "which it did not expect": ([A, write(b"b", 9, 2, 4, 5), write(b"c", 10, 2, 4, 5)], [*LOG, *log((10, b"c"))]),
    "which it did not expect: write b'b'": ([write(b"a", 5, 0, 1, 0), write(b"b", 9, 0, 1, 0)], LOG),
    "two writes at one revision": ([A, A], log((5, b"a"))),
    "refused without cause": ([A, refused(5, 2, 3)], log((5, b"a"))),
    "refused without cause: refused": ([refused(0, 0, 1)], []),
    "read what was never written": ([A, read(b"b", 5, 2, 3)], log((5, b"a"))),
    "the log has a revision twice": ([A], log((5, b"a"), (5, b"a"))),
}


@pytest.mark.parametrize(("history", "versions"), GOOD.values(), ids=GOOD)
def test_what_can_have_happened_passes(history, versions):
    for order in itertools.permutations(history):
        assert violations(order, versions) == []


@pytest.mark.parametrize(("name", "history", "versions"), [(name, *case) for name, case in BAD.items()], ids=BAD)
def test_what_cannot_have_happened_is_named(name, history, versions):
    for order in itertools.permutations(history):
        assert any(name in violation for violation in violations(order, versions))


def test_keys_are_apart():
    other = Op("read", "other", None, 0, 10, 11)
    assert violations([A, other], log((5, b"a"))) == []


class Register:
    """One key that is linearizable by construction: whatever happens does so at one point between call and answer."""

    def __init__(self, seed):
        self.random = random.Random(seed)  # noqa: S311 -- a seeded history, no secret
        self.versions = []
        self.history = []

    def run(self, count):
        points = []
        for number in range(count):
            point = number + self.random.random()
            points.append((point, point - self.random.expovariate(0.3), point + self.random.expovariate(0.3)))
        for number, (_, invoked, returned) in enumerate(sorted(points)):
            self.history.append(self.step(number, invoked, returned))
        return self

    def step(self, number, invoked, returned):
        found = self.versions[-1] if self.versions else Version("k", 0, None)
        at = 0 if found.value is None else found.revision
        match self.random.randrange(5):
            case 0 | 1:
                return read(found.value, at, invoked, returned)
            case 2 if at != number:
                return refused(self.random.choice([n for n in (0, number) if n != at]), invoked, returned)
            case 3 if at:
                value = None
            case _:
                value = f"{number}".encode()
        self.versions.append(Version("k", number + 1, value))
        expected = at if value is None else self.random.choice((None, at))
        if self.random.random() < 0.1:
            return write(value, 0, invoked, UNKNOWN, expected)
        return write(value, number + 1, invoked, returned, expected)


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_of_one_register_pass_and_a_shifted_one_does_not(seed):
    register = Register(seed).run(2000)
    assert violations(register.history, register.versions) == []
    late = [op for op in register.history if op.kind == "read" and op.value is not None and op.revision < 1000]
    op = late[-1]
    shifted = [*register.history, read(op.value, op.revision, 3000, 3001)]
    assert violations(shifted, register.versions) != []
