"""Stop sequences, cut from text that comes with probabilities.

TGI ends its text with the sequence that stopped it, and does not stop at all when a token has more after the sequence:
it looks for one at the end of the text only (huggingface/text-generation-inference#332).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from services.inference.stops import StopFilter

Entry = TypeVar("Entry")


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
