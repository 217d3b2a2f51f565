"""Server-sent events of the OpenAI dialect, from bytes to JSON objects."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json

from stackmesh.errors import Internal

_DONE: Final = b"[DONE]"
_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one event. A server that sends more without a line's end is not worth its memory."""


class EventDecoder:
    """Takes what was read, in pieces of any size, and gives the events that are whole.

    Every server of this dialect writes an event as one `data:` line, so a line's end is an event's end. Text is decoded
    only from whole lines: a character split across reads stays whole.
    """

    def __init__(self) -> None:
        self._rest = b""
        self.done = False
        """Whether the server has said `[DONE]`."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The events that `data` completes, in order. Raises Internal for what is no JSON object."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _LIMIT:
            raise Internal(f"the backend sent an event of more than {_LIMIT} bytes")
        payloads: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == _DONE:
                    self.done = True
                    break
                payloads.append(payload)
        return _parse(payloads)


def _parse(payloads: list[bytes]) -> list[dict[str, Any]]:
    if not payloads:
        return []
    try:
        events: list[Any] = from_json(b"[" + b",".join(payloads) + b"]")  # one call is cheaper than one an event
    except ValueError:
        raise Internal("the backend sent an event that is not JSON") from None
    if not all(type(event) is dict for event in events):
        raise Internal("the backend sent an event that is not a JSON object")
    return events
