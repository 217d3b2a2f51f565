"""The call of an answer, from the pieces of every version, cut in every way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest

from services.inference.tgi.call_text import CallText

WEATHER = {"city": 'Oslo, "N" {1} \\', "days": [1, {"n": 2}], "x": {}}


def read(pieces: Sequence[tuple[str | None, Any]], *, whole: bool = True) -> tuple[str, str]:
    """The name, and the arguments as they were told."""
    call = CallText()
    told = [call.feed(name, arguments) for name, arguments in pieces]
    end = call.end() if whole else ""
    return "".join(name for name, _ in told), "".join(arguments for _, arguments in told) + end


def in_three(text: str) -> list[list[str]]:
    return [[text[a:b] for a, b in pairwise((0, *places, len(text)))] for places in combinations(range(len(text)), 2)]


@pytest.mark.parametrize("arguments", [{}, {"city": "Oslo"}, WEATHER])
@pytest.mark.parametrize("end", ["", "<|eot_id|>", "\n</s>", "}"])
def test_before_3_2_the_whole_text_comes_as_it_is(arguments: dict[str, Any], end: str) -> None:
    text = json.dumps({"function": {"_name": "weather", **arguments}}) + end
    for pieces in in_three(text):
        name, told = read([(None, piece) for piece in pieces])
        assert (name, json.loads(told)) == ("weather", arguments)


@pytest.mark.parametrize("arguments", [{}, {"city": "Oslo"}, WEATHER])
def test_since_3_2_the_name_comes_first(arguments: dict[str, Any]) -> None:
    rest = json.dumps(arguments)[1:]
    for pieces in in_three(rest):
        name, told = read([("weather", "{"), *((None, piece) for piece in pieces)])
        assert (name, json.loads(told)) == ("weather", arguments)


@pytest.mark.parametrize(
    ("pieces", "arguments"),
    [
        (["{"], {}),  # one token ended the name and the call
        (["{", ""], {}),
        (["{", ",", ' "city": "Oslo"}'], {"city": "Oslo"}),  # one ended the name without its comma
        (["{", ' "city": "Oslo, N"', ""], {"city": "Oslo, N"}),
        (["{", ' "a": {"b": 1}}'], {"a": {"b": 1}}),
    ],
)
def test_what_3_2_loses_or_says_too_much(pieces: list[str], arguments: dict[str, Any]) -> None:
    name, told = read([("weather" if n == 0 else None, piece) for n, piece in enumerate(pieces)])
    assert (name, json.loads(told)) == ("weather", arguments)


@pytest.mark.parametrize("text", ['{"city": "Os', '{"a": {"b": 1', '{"a": [1'])
def test_what_is_cut_off_is_not_mended(text: str) -> None:
    assert read([("weather", text)]) == ("weather", text)


def test_a_call_that_was_cut_off_may_lack_its_brace_in_earnest() -> None:
    """Whoever knows that it was says so by not asking for the end."""
    assert read([("weather", '{"city": "Oslo"')], whole=False) == ("weather", '{"city": "Oslo"')


def test_arguments_may_be_an_object() -> None:
    assert read([("weather", {"city": "Oslo"})]) == ("weather", '{"city": "Oslo"}')
    assert read([("weather", None)]) == ("weather", "{}")


@pytest.mark.parametrize("text", ["Oslo is cold", '{"functio', '{"function": {"_name": "weath'])
def test_what_is_no_beginning_is_not_lost(text: str) -> None:
    call = CallText()
    for character in text:
        assert call.feed(None, character) == ("", "")
    assert not call.begun
    assert (call.unread(), call.unread()) == (text, "")


def test_names_are_read_as_json() -> None:
    assert read([(None, json.dumps({"function": {"_name": 'a"b\\é'}}))]) == ('a"b\\é', "{}")
