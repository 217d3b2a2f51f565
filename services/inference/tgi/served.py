"""The one model that a TGI serves, as its /info tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.inference.remote.errors import sensible
from stackmesh import names
from stackmesh.errors import InvalidField, NotHosted

_BLIND: Final = ("text-generation", "text2text-generation")
"""What the Hub calls models that read text only."""


@dataclass(frozen=True, slots=True)
class Served:
    name: str
    """What it is called here."""
    blind: bool
    """Whether it is certain that it sees no picture. TGI would read the URL to it."""


def served(info: Mapping[str, Any], model: str | None, where: str) -> Served:
    """The model of an /info. `model` is the name of one that the server knows as a local path only.

    Raises NotHosted for a path without a name, and for a name that is not that of the model.
    """
    with sensible(where):
        own, tag = str(info["model_id"]), info.get("model_pipeline_tag")
    try:
        names.check_resource_name("", own)
    except InvalidField:
        if model is None:
            raise NotHosted(
                f"{where} serves {own!r}, a local path, which is no name that can be registered; "
                "set the provider's `model` to the name that it shall have"
            ) from None
        return Served(model, tag in _BLIND)
    if model not in (None, own):
        raise NotHosted(f"{where} serves {own}, not {model} as the provider's `model` says")
    return Served(own, tag in _BLIND)
