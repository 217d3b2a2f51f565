"""How long Ollama keeps a model that nobody calls: seconds, or a duration as Go writes it (`5m`, `1h30m`). A negative
one is for ever.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Annotated, Final

from pydantic import AfterValidator

FOR_EVER: Final = -1
AT_ONCE: Final = 0

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")
_WHOLE: Final = re.compile(rf"[+-]?(?:{_PART.pattern})+")


def seconds(keep_alive: float | str) -> float:
    """How many that is, infinity for a negative one. Raises ValueError for what is no duration."""
    if isinstance(keep_alive, str):
        if not _WHOLE.fullmatch(keep_alive):
            raise ValueError(keep_alive)
        size = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(keep_alive))
        keep_alive = -size if keep_alive.startswith("-") else size
    return math.inf if keep_alive < 0 else keep_alive


def _check(value: float | str) -> float | str:
    if isinstance(value, str):
        with suppress(ValueError, OverflowError):  # as `${env.NAME:-1}` gives it, which Go does not read
            value = int(float(value))
    try:
        long_enough = seconds(value) >= 1
    except ValueError:
        raise ValueError('must be a duration such as "5m", or seconds; -1 is for ever') from None
    if not long_enough:  # Ollama rounds down, and a model that goes at once is never there to be called
        raise ValueError("must be at least a second, or -1 for ever")
    return value


KeepAlive = Annotated[int | float | str, AfterValidator(_check)]
