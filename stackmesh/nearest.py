"""For messages about a name nobody knows: which known names are like it."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection
from typing import Final

SHOWN: Final = 5
_COMPARED: Final = 50  # difflib takes some 20 us a name, and the event loop waits meanwhile


def nearest(name: str, known: Collection[str], count: int = SHOWN) -> list[str]:
    """The `count` known names most like `name`, the nearest first."""
    pairs = _pairs(name)
    likely = heapq.nlargest(_COMPARED, sorted(known), key=lambda other: len(pairs & _pairs(other)))
    return difflib.get_close_matches(name, likely, n=count, cutoff=0.0)


def hint(name: str, known: Collection[str]) -> str:
    """How many names there are, and the nearest of them: `"the nearest of 12: a, b"`."""
    if not known:
        return "there are none"
    shown = nearest(name, known)
    return f"{'there are' if len(shown) == len(known) else f'the nearest of {len(known)}'}: {', '.join(shown)}"


def _pairs(name: str) -> set[str]:
    folded = name.casefold()
    return {folded[i : i + 2] for i in range(len(folded) - 1)}
