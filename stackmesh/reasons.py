"""What goes on failing is said at once, when the reason is another one, and now and then while it lasts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

REMIND_SECONDS: Final = 60.0


class Reasons:
    """The reasons that were said lately."""

    def __init__(self, remind_after: float = REMIND_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._remind_after = remind_after
        self._clock = clock
        self._said: dict[str, float] = {}  # to when

    def new(self, why: str) -> bool:
        """Whether to say it; who asks is expected to."""
        now = self._clock()
        self._said = {said: at for said, at in self._said.items() if now - at < self._remind_after}
        if why in self._said:
            return False
        self._said[why] = now
        return True

    def forget(self) -> None:
        """It works again: the next failure is news."""
        self._said.clear()
