"""Bytes to lines and to objects, however they were cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.remote.lines import Lines, ObjectDecoder
from stackmesh.errors import Internal

OBJECTS: list[dict[str, Any]] = [{"n": 1, "text": "naïve 🚀"}, {"n": 2}, {"text": "日本語\n\n{}"}]
STREAM = "\n".join([*(json.dumps(each, ensure_ascii=False) for each in OBJECTS[:2]), "", "\r"]).encode() + (
    b"\n" + json.dumps(OBJECTS[2]).encode() + b"\r\n"
)


def decoder_of(last: int = 0) -> ObjectDecoder:
    return ObjectDecoder(lambda each: each.get("n") == last)


def decoded(*pieces: bytes) -> list[dict[str, Any]]:
    decoder = decoder_of()
    return [each for piece in pieces for each in decoder.feed(piece)]


def test_what_is_read_together_is_given_together() -> None:
    assert decoder_of().feed(STREAM) == OBJECTS


def test_cuts_at_every_pair_of_places_change_nothing() -> None:
    for first in range(len(STREAM) + 1):
        for second in range(first, len(STREAM) + 1):
            assert decoded(STREAM[:first], STREAM[first:second], STREAM[second:]) == OBJECTS


def test_bytes_one_at_a_time_change_nothing() -> None:
    assert decoded(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == OBJECTS


def test_it_is_done_with_the_last_object_wherever_that_comes() -> None:
    decoder = decoder_of(last=2)
    decoder.feed(b'{"n": 1}\n{"n": 2}')
    assert not decoder.done
    decoder.feed(b'\n{"n": 3}\n')
    assert decoder.done


def test_half_an_object_is_none() -> None:
    decoder = decoder_of()
    assert decoder.feed(b'{"a"') == []
    assert decoder.feed(b": 1}") == []
    assert decoder.feed(b"\n") == [{"a": 1}]


@pytest.mark.parametrize("line", [b"{", b"[1]", b"null", b'"text"', b'{"a": "\xff"}', b'{"a": 1}}, {"b": 2', b"<html>"])
def test_what_is_no_object_is_an_error_that_shows_nothing_of_it(line: bytes) -> None:
    with pytest.raises(Internal, match=r"not (JSON|a JSON object)$"):
        decoder_of().feed(line + b"\n")


def test_a_line_of_ten_megabytes_is_one_line() -> None:
    lines, piece = Lines(), b"x" * 65536
    assert [line for _ in range(160) for line in lines.feed(piece)] == []
    assert [len(line) for line in lines.feed(b"x\nrest")] == [160 * 65536 + 1]
    assert lines.feed(b"\n") == [b"rest"]


def test_an_endless_line_is_refused() -> None:
    lines = Lines()
    lines.feed(b"x" * 16 * 1024 * 1024)
    with pytest.raises(Internal, match="more than"):
        lines.feed(b"x")
