"""Stop sequences: every short text, cut in every way, against every few short sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, pairwise, product

import pytest

from services.inference.stops import StopFilter
from services.inference.tgi.stop import TokenFilter

STOPS = ["".join(letters) for n in (1, 2, 3) for letters in product("ab", repeat=n)]
SETS = [(), *((stop,) for stop in STOPS), *combinations(STOPS, 2)]
LONGEST = 6
TEXTS = ["".join(letters) for n in range(LONGEST + 1) for letters in product("ab", repeat=n)]


@cache
def up_to(text: str, stops: tuple[str, ...]) -> str | None:
    """The text before the sequence that is complete first, the longest of those; None if there is none."""
    for end in range(1, len(text) + 1):
        ended = [stop for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(map(len, ended))]
    return None


@cache
def beginning(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of the text that a sequence begins with."""
    lengths = [n for stop in stops for n in range(min(len(stop), len(text) + 1)) if text.endswith(stop[:n])]
    return max(lengths, default=0)


def cuts(text: str) -> Iterator[list[str]]:
    """All ways to cut it into pieces."""
    for count in range(max(len(text), 1)):
        for places in combinations(range(1, len(text)), count):
            yield [text[a:b] for a, b in pairwise((0, *places, len(text)))]


def check(text: str, pieces: Sequence[str], stops: tuple[str, ...], filtering: StopFilter) -> None:
    expected = up_to(text, stops)
    passed = fed = ""
    for piece in pieces:
        fed += piece
        passed += filtering.feed(piece)
        found = up_to(fed, stops)
        assert filtering.found == (found is not None)
        if found is None:
            assert passed == fed[: len(fed) - beginning(fed, stops)], "no more and no less is held back"
            assert filtering.holds == (len(passed) < len(fed))
    if not filtering.found:
        passed += filtering.rest()
    assert passed == (text if expected is None else expected)
    assert filtering.rest() == ""


def check_all(length: int, kind: type[StopFilter]) -> None:
    for text in (text for text in TEXTS if len(text) == length):
        ways = list(cuts(text))
        for stops in SETS:
            for pieces in ways:
                check(text, pieces, stops, kind(stops))


@pytest.mark.parametrize("length", range(LONGEST + 1))
def test_every_text_cut_in_every_way(length: int) -> None:
    check_all(length, StopFilter)


class Eager(StopFilter):
    """The planted bug: nothing is held back."""

    def _beginning(self, text: str) -> int:
        return 0


class Leftmost(StopFilter):
    """The planted bug: of several, the one that begins first, which depends on the pieces."""

    def feed(self, text: str) -> str:
        whole = self._held + text
        passed = super().feed(text)
        found = [at for stop in self._stops if (at := whole.find(stop)) >= 0]
        return whole[: min(found)] if found else passed


@pytest.mark.parametrize("broken", [Eager, Leftmost])
def test_the_check_sees_a_broken_filter(broken: type[StopFilter]) -> None:
    with pytest.raises(AssertionError):
        check_all(4, broken)


def test_after_a_stop_sequence_nothing_comes() -> None:
    filtering = StopFilter(["."])
    assert [filtering.feed(piece) for piece in ("a.b", "c", ".", "")] == ["a", "", "", ""]
    assert filtering.rest() == ""


def test_whole_characters_stay_whole() -> None:
    filtering = StopFilter(["🚀🎉", "ż."])
    assert [filtering.feed(piece) for piece in ("é🚀", "🚀", "x", "ż", ",")] == ["é", "🚀", "🚀x", "", "ż,"]


@pytest.mark.parametrize("length", range(6))
def test_an_entry_goes_with_the_first_character_of_its_token(length: int) -> None:
    for text in (text for text in TEXTS if len(text) == length):
        for stops in SETS:
            for pieces in cuts(text):
                filtering = TokenFilter[int](stops)
                found = [filtering.feed(piece, [n]) for n, piece in enumerate(pieces)]
                if not filtering.found:
                    found.append(filtering.rest())
                passed, begun = "", 0
                starts = [sum(map(len, pieces[:n])) for n in range(len(pieces))]
                for said, entries in found:
                    passed += said
                    due = sum(start < len(passed) for start in starts)
                    if text:
                        assert entries == list(range(begun, due))
                    begun += len(entries)
                if text:
                    assert begun == sum(start < len(passed) for start in starts)


def test_a_token_without_text_goes_with_what_precedes_it() -> None:
    filtering = TokenFilter[str](["ab"])
    assert filtering.feed("x", ["x"]) == ("x", ["x"])
    assert filtering.feed("", ["half a character"]) == ("", ["half a character"])
    assert filtering.feed("a", ["a"]) == ("", [])
    assert filtering.feed("", ["another half"]) == ("", [])
    assert filtering.feed("y", ["y"]) == ("ay", ["a", "another half", "y"])
    assert filtering.feed("", ["</s>"]) == ("", ["</s>"])
    assert filtering.rest() == ("", [])


def test_the_entries_of_a_stop_sequence_go_nowhere() -> None:
    filtering = TokenFilter[str](["abc"])
    assert filtering.feed("xa", ["xa"]) == ("x", ["xa"])
    assert filtering.feed("b", ["b"]) == ("", [])
    assert filtering.feed("c", ["c"]) == ("", [])
    assert filtering.feed("d", ["d"]) == ("", [])
    assert filtering.rest() == ("", [])


def test_several_tokens_may_come_at_once() -> None:
    filtering = TokenFilter[int](())
    assert filtering.feed("abc", [1, 2, 3]) == ("abc", [1, 2, 3])
