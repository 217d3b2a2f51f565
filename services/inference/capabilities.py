"""What each kind of inference provider can do: capabilities.yaml, checked when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from stackmesh.config import Frozen, validate


class Capability(Frozen):
    name: str
    title: str
    """In Markdown."""
    always: bool = False
    """Nobody may decline it."""
    required_of: Sequence[str] = ()
    """The provider types that may not decline it."""


class Capabilities(Frozen):
    capabilities: Sequence[Capability]
    providers: Mapping[str, Mapping[str, str]]
    """By provider type: what it declines, and why."""

    def gaps(self, provider_type: str) -> Mapping[str, str]:
        """What a provider type declines, and why. KeyError for one that is not in the table."""
        return self.providers[provider_type]

    def problems(self) -> Sequence[str]:
        """What the table may not say."""
        known = {capability.name: capability for capability in self.capabilities}
        found: list[str] = []
        for kind, gaps in self.providers.items():
            for name, reason in gaps.items():
                if name not in known:
                    found.append(f"{kind} declines {name}, which is no capability")
                elif known[name].always or kind in known[name].required_of:
                    found.append(f"{kind} may not decline {name}")
                elif not reason.strip():
                    found.append(f"{kind} declines {name} without a reason")
        return found


def capabilities() -> Capabilities:
    """The table."""
    return capabilities_of((resources.files("services.inference") / "capabilities.yaml").read_text(encoding="utf-8"))


def capabilities_of(text: str) -> Capabilities:
    """As `capabilities`, from the text of a table. Raises ConfigError."""
    tree: Any = yaml.safe_load(text)
    return validate(Capabilities, tree, "capabilities.yaml")
