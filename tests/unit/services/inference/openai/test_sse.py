"""Bytes to events, however they were cut."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from services.inference.openai.sse import EventDecoder
from stackmesh.errors import Internal

OBJECTS = [{"n": 1, "text": "naïve 🚀"}, {"n": 2}, {"n": 3, "text": "日本語\n\n data: [DONE]"}]


def stream(newline: str = "\n") -> bytes:
    lines = [": a comment"]
    for item in OBJECTS:
        lines += [f"data: {json.dumps(item, ensure_ascii=False)}", ""]
    return newline.join([*lines, "event: end", "data:[DONE]", "", 'data: {"after": "the end"}', "", ""]).encode()


def decoded(pieces: list[bytes]) -> list[object]:
    decoder = EventDecoder()
    events: list[object] = []
    for piece in pieces:
        events += decoder.feed(piece)
        if decoder.done:
            return events
    raise AssertionError("the end was not noticed")


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_is_read_together_is_given_together(newline: str) -> None:
    decoder = EventDecoder()
    assert decoder.feed(stream(newline)) == OBJECTS
    assert decoder.done


@given(cuts=st.sets(st.integers(1, len(stream()) - 1)), newline=st.sampled_from(["\n", "\r\n"]))
def test_cuts_anywhere_even_within_a_character_change_nothing(cuts: set[int], newline: str) -> None:
    whole = stream(newline)
    places = [0, *sorted(cuts), len(whole)]
    assert decoded([whole[a:b] for a, b in pairwise(places)]) == OBJECTS


def test_half_an_event_is_none() -> None:
    decoder = EventDecoder()
    assert decoder.feed(b'data: {"a"') == []
    assert decoder.feed(b": 1}") == []
    assert decoder.feed(b"\n") == [{"a": 1}]


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"null", b'"text"', b'{"a": "\xff"}', b'{"a": 1}}, {"b": 2'])
def test_what_is_no_object_is_an_error_that_shows_nothing_of_it(payload: bytes) -> None:
    with pytest.raises(Internal, match=r"not (JSON|a JSON object)$"):
        EventDecoder().feed(b"data: " + payload + b"\n\n")


def test_an_endless_event_is_refused() -> None:
    decoder = EventDecoder()
    decoder.feed(b"x" * 16 * 1024 * 1024)
    with pytest.raises(Internal, match="more than"):
        decoder.feed(b"x")
