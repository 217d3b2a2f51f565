"""How long a benchmark measures, and to whom it says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

Result = Mapping[str, float | int | bool | str]
"""Flat: every key is dotted, none is nested."""


def silent(_text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    rounds: int
    """Interleaved rounds of whatever is compared."""
    samples: int
    """Of what is timed one by one."""
    limit: float
    """Seconds after which the whole benchmark gives up."""
    seconds: float = 0.0
    """Of load in each case of a round, where there is load."""
    say: Callable[[str], None] = silent
    """Told what is going on, in a few words."""

    def but(self, *, rounds: int | None, seconds: float | None, samples: int | None) -> Plan:
        """The same plan with what is not None put in its place."""
        given = {"rounds": rounds, "seconds": seconds, "samples": samples}
        return replace(self, **{key: value for key, value in given.items() if value is not None})
