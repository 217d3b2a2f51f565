from __future__ import annotations

from stackmesh.nearest import Names, hint
from tests.counting import calls


def test_the_nearest_come_first():
    known = ["qwen", "llama-3-8b", "llama-3-70b", "mistral", "LLAMA-3", "gemma", "phi"]
    assert Names(known).nearest("llama-3-8")[:2] == ["llama-3-8b", "llama-3-70b"]
    assert len(Names(known).nearest("zzz")) == 5


def test_the_hint_tells_the_total_and_at_most_five():
    assert hint("a", []) == "there are none"
    assert hint("ab", ["b", "abc"]) == "there are: abc, b"
    assert hint("m1", [f"m{n}" for n in range(100)]).startswith("the nearest of 100: m1, ")


MANY = Names([*(f"{n:05}-name" for n in range(20_000)), "the-one-we-mean", "Org/Big-Model-8B"])


def test_of_many_the_one_that_was_meant_is_found():
    for slip in ("the-one-we-meant", "teh-one-we-mean", "The-One-We-Mean", "the-one-we-man"):
        assert MANY.nearest(slip)[0] == "the-one-we-mean"
    for slip in ("Big-Model-8B", "big-model-8b-v2", "other/big-model-8b", "org/big_model-8b"):
        assert MANY.nearest(slip)[0] == "Org/Big-Model-8B"


def test_long_names_are_told_apart_by_their_ends():
    known = [f"{'m' * 240}{n:04}" for n in range(1000)]
    assert Names(known).nearest("m" * 238 + "0123")[0] == "m" * 240 + "0123"


class Exhaustive(Names):
    """The planted bug: looks at every one."""

    def _beside(self, name):
        return self._known


def growth(kind: type[Names]) -> float:
    """How much more an unknown name costs among thirty times as many."""
    few, many = (kind(f"org/a-model-{n}" for n in range(count)) for count in (300, 9000))
    return calls(lambda: many.hint("org/no-model-1")) / calls(lambda: few.hint("org/no-model-1"))


def test_what_an_unknown_name_costs_does_not_grow_with_the_known_ones():
    assert growth(Names) < 2


def test_control_who_looks_at_every_name_is_noticed():
    assert growth(Exhaustive) > 4


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789" * 6


def cost(length: int) -> int:
    """Of an unknown name that is so long, among names as long."""
    known = Names([LETTERS[n:][:length] for n in range(20)])
    return calls(lambda: known.hint(LETTERS[::-1][:length]))


def test_long_names_cost_little_more_than_short_ones():
    assert cost(190) < 1.5 * cost(60)
