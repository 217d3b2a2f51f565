"""How long a benchmark measures, and to whom it says how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    tokens: int = 0
    """Of each answer, where a model answers."""
    store: str = ""
    """Of the registry, where it matters."""
    litellm: Path | None = None
    """A virtual environment with LiteLLM's proxy, to compare with."""
    say: Callable[[str], None] = silent
    """Told what is going on, in a few words."""

    def but(self, **given: Any) -> Plan:
        """The same plan with what is given, and not None, put in its place."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})
