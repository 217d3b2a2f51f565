"""For messages about a name nobody knows: which known names are like it."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Collection
from typing import Final

SHOWN: Final = 5
# The event loop waits meanwhile: difflib takes some 20 us a name, a pair some 50 ns, and there may be 10,000 names.
_COMPARED: Final = 25
_PAIRS: Final = 16


def nearest(name: str, known: Collection[str], count: int = SHOWN) -> list[str]:
    """The `count` known names most like `name`, the nearest first."""
    pairs = _pairs(name)
    scored = ((-sum(map(other.casefold().__contains__, pairs)), other) for other in known)
    likely = [other for _, other in heapq.nsmallest(_COMPARED, scored)]
    return difflib.get_close_matches(name, likely, n=count, cutoff=0.0)


def hint(name: str, known: Collection[str]) -> str:
    """How many names there are, and the nearest of them: `"the nearest of 12: a, b"`."""
    if not known:
        return "there are none"
    shown = nearest(name, known)
    return f"{'there are' if len(shown) == len(known) else f'the nearest of {len(known)}'}: {', '.join(shown)}"


def _pairs(name: str) -> list[str]:
    """Some pairs of neighbouring letters, from all over the name."""
    folded = name.casefold()
    pairs = sorted({folded[i : i + 2] for i in range(len(folded) - 1)}, key=folded.find)
    return pairs[:: -(-len(pairs) // _PAIRS) or 1]
