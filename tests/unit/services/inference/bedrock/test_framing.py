"""Frames to events: cut anywhere, damaged anywhere, and as botocore reads them."""

from __future__ import annotations

import struct
from binascii import crc32
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given, strategies as st

from services.inference.bedrock.framing import EventDecoder
from stackmesh.errors import Internal
from tests.fakes import eventstream

EVENTS = [
    eventstream.event("messageStart", {"role": "assistant", "p": "abc"}),
    eventstream.event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "zażółć 😀"}}),
    eventstream.event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "x" * 300}}),
    eventstream.event("metadata", {"usage": {"inputTokens": 1}}),
]
STREAM = b"".join(EVENTS)
FOUND = [
    {"messageStart": {"role": "assistant", "p": "abc"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "zażółć 😀"}}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "x" * 300}}},
    {"metadata": {"usage": {"inputTokens": 1}}},
]


def test_a_stream_cut_at_every_offset_gives_the_same_events() -> None:
    for at in range(len(STREAM) + 1):
        decoder = EventDecoder()
        assert decoder.feed(STREAM[:at]) + decoder.feed(STREAM[at:]) == FOUND


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 64])
def test_a_stream_in_pieces_gives_the_same_events(size: int) -> None:
    decoder = EventDecoder()
    assert [event for at in range(0, len(STREAM), size) for event in decoder.feed(STREAM[at : at + size])] == FOUND


def test_an_event_is_given_as_soon_as_it_is_whole() -> None:
    decoder = EventDecoder()
    assert decoder.feed(EVENTS[0][:-1]) == []
    assert decoder.feed(EVENTS[0][-1:] + EVENTS[1]) == FOUND[:2]


@given(st.lists(st.tuples(st.text(min_size=1, max_size=60), st.dictionaries(st.text(), st.text())), max_size=6))
def test_it_reads_what_botocore_reads(events: list[tuple[str, dict[str, str]]]) -> None:
    written = b"".join(eventstream.event(kind, body) for kind, body in events)
    buffer = EventStreamBuffer()
    buffer.add_data(written)
    theirs = [message.headers[":event-type"] for message in buffer]
    assert [next(iter(event)) for event in EventDecoder().feed(written)] == theirs == [kind for kind, _ in events]


def test_headers_of_all_types_are_passed_over() -> None:
    others = b"".join(
        struct.pack("!B", 1) + name + value
        for name, value in (
            (b"a", b"\x00"),
            (b"b", b"\x01"),
            (b"c", b"\x02\x07"),
            (b"d", b"\x03\x00\x07"),
            (b"e", b"\x04" + bytes(4)),
            (b"f", b"\x05" + bytes(8)),
            (b"g", b"\x06\x00\x03abc"),
            (b"h", b"\x08" + bytes(8)),
            (b"i", b"\x09" + bytes(16)),
        )
    )
    assert EventDecoder().feed(_framed(others + _head(EVENTS[0]), b'{"role": "x"}')) == [
        {"messageStart": {"role": "x"}}
    ]


def test_a_failure_is_told_with_its_code_and_its_text() -> None:
    decoder = EventDecoder()
    assert decoder.feed(eventstream.exception("throttlingException", "slow down")) == [
        {"failure": "throttlingException", "message": "slow down"}
    ]
    assert decoder.feed(eventstream.error("InternalFailure", "oh")) == [{"failure": "InternalFailure", "message": "oh"}]


def test_the_last_event_ends_the_stream() -> None:
    decoder = EventDecoder("metadata")
    decoder.feed(b"".join(EVENTS[:3]))
    assert not decoder.done
    decoder.feed(EVENTS[3])
    assert decoder.done


def test_no_bit_can_be_wrong() -> None:
    """Not one event is given that was not sent."""
    for at in range(len(EVENTS[1]) * 8):
        damaged = bytearray(EVENTS[1])
        damaged[at // 8] ^= 1 << at % 8
        decoder = EventDecoder()
        with pytest.raises(Internal, match="damaged"):
            decoder.feed(bytes(damaged))


def test_without_the_checksum_wrong_bits_go_through() -> None:
    """The check above fails if nothing is checked."""

    class Blind(EventDecoder):
        def feed(self, data: bytes) -> list[dict[str, Any]]:
            end = len(data) - 4
            return super().feed(data[:end] + struct.pack("!I", crc32(data[:end])))

    damaged = EVENTS[1].replace(b'"contentBlockIndex": 0', b'"contentBlockIndex": 8')
    assert damaged != EVENTS[1]
    assert Blind().feed(damaged) != FOUND[1:2]


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (struct.pack("!II", 17 * 1024 * 1024, 0), "of more than"),
        (struct.pack("!II", 16, 4), "shorter than its headers"),
    ],
)
def test_lengths_that_cannot_be_are_not_waited_for(frame: bytes, problem: str) -> None:
    with pytest.raises(Internal, match=problem):
        EventDecoder().feed(frame + struct.pack("!I", crc32(frame)))


@pytest.mark.parametrize("payload", [b"garbage", b"[]", b"null", b"\xff"])
def test_a_payload_that_is_no_object(payload: bytes) -> None:
    with pytest.raises(Internal, match=r"not (?:a )?JSON"):
        EventDecoder().feed(_framed(_head(EVENTS[0]), payload))


@pytest.mark.parametrize(
    "headers",
    [b"", b"\x05abc", b"\x01a\x63", b"\x01a\x07\x00\xff", b"\x01\xff\x00", b"\x0d:message-type\x07\x00\x05event"],
)
def test_headers_that_make_no_sense(headers: bytes) -> None:
    with pytest.raises(Internal, match="headers"):
        EventDecoder().feed(_framed(headers, b"{}"))


def test_an_event_of_ten_megabytes_in_small_pieces() -> None:
    written = eventstream.event("contentBlockDelta", {"text": "x" * 10_000_000})
    decoder = EventDecoder()
    events = [event for at in range(0, len(written), 16384) for event in decoder.feed(written[at : at + 16384])]
    assert events == [{"contentBlockDelta": {"text": "x" * 10_000_000}}]


def test_headers_that_are_never_the_same_are_not_kept_for_ever() -> None:
    decoder = EventDecoder()
    for n in range(1000):
        assert decoder.feed(eventstream.event(f"event{n}", {})) == [{f"event{n}": {}}]
    assert len(decoder._heads) <= 64


def _head(event: bytes) -> bytes:
    return event[12 : 12 + struct.unpack_from("!I", event, 4)[0]]


def _framed(head: bytes, payload: bytes) -> bytes:
    prelude = struct.pack("!II", 12 + len(head) + len(payload) + 4, len(head))
    whole = prelude + struct.pack("!I", crc32(prelude)) + head + payload
    return whole + struct.pack("!I", crc32(whole))
