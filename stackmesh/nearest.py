"""For messages about a name nobody knows: which known names are like it.

The event loop waits meanwhile, and there may be 10,000 names, so few of them are looked at: those beside the unknown
one when all are put in order, by how they begin (after the last slash: whoever forgets a prefix should find it) and by
how they end. A slip at either end finds its neighbours at the other.
"""

from __future__ import annotations

import difflib
import heapq
from bisect import bisect
from collections.abc import Collection, Iterable, Iterator
from typing import Final

SHOWN: Final = 5
_BESIDE: Final = 64
"""Names looked at on either side, in either order."""
_FEW: Final = 4 * _BESIDE
"""So many are all looked at, in no order."""
# difflib takes some 20 us a name, and the square of their lengths; a pair some 50 ns.
_COMPARED: Final = 25
_PAIRS: Final = 16
_END: Final = 32
"""Of a name longer than two of them, the letters at either end that are compared."""


class Names:
    """Known names, put in order once for all who ask for another."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = list(known)
        few = len(self._known) <= _FEW
        self._orders = () if few else tuple(sorted(map(key, self._known)) for key in (_beginning, _ending))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def nearest(self, name: str, count: int = SHOWN) -> list[str]:
        """The `count` names most like `name`, the nearest first."""
        pairs = _pairs(name)
        scored = ((-sum(map(other.casefold().__contains__, pairs)), other) for other in self._beside(name))
        matcher = difflib.SequenceMatcher(b=_ends(name))

        def likeness(other: str) -> tuple[float, str]:
            matcher.set_seq1(_ends(other))
            return matcher.ratio(), other

        return heapq.nlargest(count, [other for _, other in heapq.nsmallest(_COMPARED, scored)], key=likeness)

    def hint(self, name: str) -> str:
        """How many there are, and the nearest of them: `"the nearest of 12: a, b"`."""
        if not self._known:
            return "there are none"
        shown = self.nearest(name)
        few = len(shown) == len(self._known)
        return f"{'there are' if few else f'the nearest of {len(self._known)}'}: {', '.join(shown)}"

    def _beside(self, name: str) -> Collection[str]:
        """Those that are looked at."""
        if not self._orders:
            return self._known
        found: set[str] = set()
        for order, key in zip(self._orders, (_beginning, _ending), strict=True):
            here = bisect(order, key(name))
            found.update(_name_of(other) for other in order[max(here - _BESIDE, 0) : here + _BESIDE])
        return found


def hint(name: str, known: Iterable[str]) -> str:
    """As Names has it, for who asks once."""
    return Names(known).hint(name)


def _beginning(name: str) -> str:
    return f"{name.casefold().rpartition('/')[2]}\0{name}"


def _ending(name: str) -> str:
    return f"{name.casefold()[::-1]}\0{name}"


def _name_of(key: str) -> str:
    return key.rpartition("\0")[2]


def _ends(name: str) -> str:
    return name if len(name) <= 2 * _END else name[:_END] + name[-_END:]


def _pairs(name: str) -> list[str]:
    """Some pairs of neighbouring letters, from all over the name."""
    folded = name.casefold()
    pairs = sorted({folded[i : i + 2] for i in range(len(folded) - 1)}, key=folded.find)
    return pairs[:: -(-len(pairs) // _PAIRS) or 1]
