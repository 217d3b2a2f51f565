"""Stop sequences, cut from text as it comes.

TGI ends its text with the sequence that stopped it, and does not stop at all when a token has more after the sequence:
it looks for one at the end of the text only (huggingface/text-generation-inference#332).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class StopFilter:
    """Passes text on up to the stop sequence that is complete first; of those that end together, the longest.

    What may be the beginning of one waits until it is known. So what is passed on does not depend on how the text is
    cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False
        """Whether there was one. Nothing is passed on from then on."""

    @property
    def holds(self) -> bool:
        """Whether some of the text waits."""
        return bool(self._held)

    def feed(self, text: str) -> str:
        """What of the text may be passed on."""
        if self.found:
            return ""
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)[1]]
        safe = len(text) - self._beginning(text)
        self._held = text[safe:]
        return text[:safe]

    def rest(self) -> str:
        """What waited, at the end of the text."""
        held, self._held = self._held, ""
        return held

    def _beginning(self, text: str) -> int:
        """Characters at the end of `text` that may become a stop sequence."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """Of the ends of `text` that `stop` begins with, the length of the longest."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


class TokenFilter(Generic[Entry]):
    """A StopFilter for text that comes with entries, one a token. An entry goes with the first character of its token,
    that of a token without text with what precedes it; those of a stop sequence go nowhere.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._any = bool(stops)
        self._filter = StopFilter(stops)
        self._fed = 0
        self._passed = 0
        self._waiting: deque[tuple[int, Entry]] = deque()
        """With the place in the text where each token begins."""

    @property
    def found(self) -> bool:
        """Whether there was a stop sequence."""
        return self._filter.found

    def feed(self, text: str, entries: Sequence[Entry]) -> tuple[str, list[Entry]]:
        """A token's text and its entry; what of all may be passed on."""
        if not self._any:
            return text, [*entries]  # as most streams are: half the cost of a token
        self._waiting.extend((self._fed, entry) for entry in entries)
        self._fed += len(text)
        passed = self._filter.feed(text)
        self._passed += len(passed)
        return passed, list(self._entries())

    def rest(self) -> tuple[str, list[Entry]]:
        """What waited, at the end of the text."""
        passed = self._filter.rest()
        self._passed += len(passed)
        return passed, list(self._entries())

    def _entries(self) -> Iterator[Entry]:
        waits = self._filter.found or self._filter.holds
        while self._waiting and (self._waiting[0][0] < self._passed or not waits):
            yield self._waiting.popleft()[1]
