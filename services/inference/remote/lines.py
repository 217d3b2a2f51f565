"""Streams of lines, each with a JSON object, from bytes: server-sent events and newline-delimited JSON alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pydantic_core import from_json

from stackmesh.errors import Internal

_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line. A server that sends more without a line's end is not worth its memory."""


class Lines:
    """Takes what was read, in pieces of any size, and gives the lines that are whole, without their ends.

    They are bytes: text is decoded only from whole lines, so that a character split across reads stays whole.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, in order. Raises Internal for an endless one."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._size = [], 0
        self._rest.append(rest)
        self._size += len(rest)
        if self._size > _LIMIT:
            raise Internal(f"the backend sent an event of more than {_LIMIT} bytes")
        return lines


def objects(payloads: list[bytes]) -> list[dict[str, Any]]:
    """The JSON objects that these are, one each. Raises Internal, which shows nothing of them."""
    if not payloads:
        return []
    try:
        found: list[Any] = from_json(b"[" + b",".join(payloads) + b"]")  # one call is cheaper than one an object
    except ValueError:
        raise Internal("the backend sent an event that is not JSON") from None
    if not all(type(each) is dict for each in found):
        raise Internal("the backend sent an event that is not a JSON object")
    return found


class ObjectDecoder:
    """Newline-delimited JSON: takes what was read, and gives the objects that are whole.

    Nothing in this format says that it is over: `last` tells by an object that no other follows.
    """

    def __init__(self, last: Callable[[dict[str, Any]], object]) -> None:
        self._lines = Lines()
        self._last = last
        self.done = False
        """Whether the last object has come."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The objects that `data` completes, in order. Raises Internal for what is no JSON object."""
        found = objects([line for line in self._lines.feed(data) if line.strip()])
        self.done = self.done or any(map(self._last, found))
        return found
