"""Stop sequences, cut from text as it comes, for backends that leave it to us."""

from __future__ import annotations

from collections.abc import Sequence


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


def cut(text: str, stops: Sequence[str]) -> str:
    """A whole text up to the stop sequence that is complete first."""
    stop = StopFilter(stops)
    return stop.feed(text) + stop.rest()
