"""How long Ollama keeps a model."""

from __future__ import annotations

import math
from typing import Any

import pytest

from services.inference.ollama.keep_alive import KeepAlive, seconds
from stackmesh.config import ConfigError, Frozen, validate


class Config(Frozen):
    keep_alive: KeepAlive


@pytest.mark.parametrize(
    ("given", "sent", "lasts"),
    [
        ("5m", "5m", 300),
        ("1h30m", "1h30m", 5400),
        ("1.5h", "1.5h", 5400),
        ("1500ms", "1500ms", 1.5),
        ("-1m", "-1m", math.inf),
        (-1, -1, math.inf),
        (300, 300, 300),
        (2.5, 2.5, 2.5),
        ("-1", -1, math.inf),
        ("300", 300, 300),
    ],
)
def test_durations(given: Any, sent: Any, lasts: float) -> None:
    found = validate(Config, {"keep_alive": given}, "config").keep_alive
    assert (found, type(found), seconds(found)) == (sent, type(sent), lasts)


@pytest.mark.parametrize("given", ["soon", "5 m", "5d", "", "m", "1h ", "nan", "inf", "-inf"])
def test_what_is_no_duration(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"config\.keep_alive: must be "):
        validate(Config, {"keep_alive": given}, "config")


@pytest.mark.parametrize("given", [0, "0s", "0", 0.5, "999ms", "-0s"])
def test_a_model_that_goes_at_once_would_never_be_served(given: Any) -> None:
    with pytest.raises(ConfigError, match="must be at least a second, or -1 for ever"):
        validate(Config, {"keep_alive": given}, "config")
