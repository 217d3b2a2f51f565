"""Server-sent events of the OpenAI dialect, from bytes to JSON objects."""

from __future__ import annotations

from typing import Any, Final

from services.inference.remote.lines import Lines, objects

_DONE: Final = b"[DONE]"


class EventDecoder:
    """Takes what was read, in pieces of any size, and gives the events that are whole.

    Every server of this dialect writes an event as one `data:` line, so a line's end is an event's end.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self.done = False
        """Whether the server has said `[DONE]`."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The events that `data` completes, in order. Raises Internal for what is no JSON object."""
        payloads: list[bytes] = []
        for line in self._lines.feed(data):
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == _DONE:
                    self.done = True
                    break
                payloads.append(payload)
        return objects(payloads)
