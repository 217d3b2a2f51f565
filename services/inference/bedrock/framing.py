"""`application/vnd.amazon.eventstream`, from bytes to events.

A message is a prelude (its whole length, the length of its headers, a CRC-32 of these eight bytes), headers, a payload,
and a CRC-32 of all that precedes it (https://smithy.io/2.0/aws/amazon-eventstream.html, read in 2026). botocore reads
it, too, at six times the cost: it takes the headers apart in every message, and a stream has but four or five different
ones.
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from services.inference.remote.streams import Json
from stackmesh.errors import Internal

_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one message."""
_PRELUDE: Final = struct.Struct("!III")
_CRC: Final = struct.Struct("!I")
_STRING: Final = 7
_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type, for those that have no length before them."""
_KNOWN_LIMIT: Final = 64
"""Header blocks that are remembered. A server may send one that is never the same."""


@dataclass(frozen=True, slots=True)
class _Head:
    """What the headers of a message say: the :event-type, or the code of a failure."""

    event: str = ""
    failure: str = ""
    message: str | None = None
    """The text of a failure that has no JSON."""


class EventDecoder:
    """Takes what was read, in pieces of any size, and gives the events that are whole.

    An event is `{type: body}`, a failure in mid-stream `{"failure": code, "message": ...}`. `last` is the type of the
    event after which nothing comes that matters, if there is one.
    """

    def __init__(self, last: str | None = None) -> None:
        self._last = last
        self.done = False
        """Whether there is nothing more to read. Whoever reads the events may know sooner, and say so."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._needed = _PRELUDE.size
        """Bytes without which nothing more can be told."""
        self._heads: dict[bytes, _Head] = {}

    def feed(self, data: bytes) -> list[Json]:
        """The events that `data` completes, in order. Raises Internal for what is no such message."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._needed:
            return []  # joined once it is whole: 10 MB in small pieces would be copied a thousand times
        data = b"".join(self._pieces)
        events: list[Json] = []
        at, self._needed = 0, _PRELUDE.size
        while len(data) - at >= self._needed:
            length = self._length(data, at)
            if len(data) - at < length:
                self._needed = length
                break
            events.append(self._event(data, at, length))
            at += length
        rest = data[at:]
        self._pieces, self._size = [rest], len(rest)
        return events

    @staticmethod
    def _length(data: bytes, at: int) -> int:
        length, head_length, crc = _PRELUDE.unpack_from(data, at)
        if crc32(data[at : at + 8]) != crc:
            raise Internal("the backend sent an event whose beginning is damaged")
        if length > _LIMIT:
            raise Internal(f"the backend sent an event of more than {_LIMIT} bytes")
        if length < _PRELUDE.size + head_length + _CRC.size:
            raise Internal("the backend sent an event that is shorter than its headers")
        return length

    def _event(self, data: bytes, at: int, length: int) -> Json:
        end = at + length - _CRC.size
        if crc32(data[at:end]) != _CRC.unpack_from(data, end)[0]:
            raise Internal("the backend sent an event that is damaged")
        begin = at + _PRELUDE.size
        body = begin + _PRELUDE.unpack_from(data, at)[1]
        head = self._head(data[begin:body])
        if head.event:
            self.done = self.done or head.event == self._last
            return {head.event: _json(data[body:end])}
        return {"message": head.message, **({} if head.message else _json(data[body:end])), "failure": head.failure}

    def _head(self, raw: bytes) -> _Head:
        head = self._heads.get(raw)
        if head is None:
            try:
                head = _parsed(_headers(raw))
            except (struct.error, IndexError, KeyError, UnicodeDecodeError):
                raise Internal("the backend sent an event with headers that make no sense") from None
            if len(self._heads) < _KNOWN_LIMIT:
                self._heads[raw] = head
        return head


def _parsed(headers: Mapping[str, str]) -> _Head:
    match headers[":message-type"]:
        case "event":
            return _Head(event=headers[":event-type"])
        case "exception":
            return _Head(failure=headers[":exception-type"])
        case _:
            return _Head(failure=headers[":error-code"], message=headers.get(":error-message", "no reason given"))


def _headers(raw: bytes) -> Mapping[str, str]:
    """Those whose values are text."""
    found: dict[str, str] = {}
    at = 0
    while at < len(raw):
        name_end = at + 1 + raw[at]
        name, kind = raw[at + 1 : name_end].decode(), raw[name_end]
        at = name_end + 1
        size = _SIZES.get(kind)
        if size is None:
            (size,) = struct.unpack_from("!H", raw, at)
            at += 2
        if at + size > len(raw):
            raise IndexError(at + size)
        if kind == _STRING:
            found[name] = raw[at : at + size].decode()
        at += size
    return found


def _json(payload: bytes) -> Json:
    try:
        body: Any = from_json(payload) if payload else {}
    except ValueError:
        raise Internal("the backend sent an event that is not JSON") from None
    if not isinstance(body, dict):
        raise Internal("the backend sent an event that is not a JSON object")
    return body  # pyright: ignore[reportUnknownVariableType] -- JSON
