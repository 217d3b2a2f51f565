"""What a family of models has of its own, beside what Converse has for all.

From the pages on inference parameters at https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html
(read in 2026). What is not here is a family that has none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.inference.bedrock.names import parted
from stackmesh.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Family:
    """`additionalModelRequestFields` by path, and how the models of a family are invoked without Converse."""

    top_k: tuple[str, ...] = ()
    seed: tuple[str, ...] = ()
    completes: bool = False
    """Whether they continue a text."""
    embeds: str = ""
    """In whose form they make vectors: titan or cohere."""


_FAMILIES: Final[Mapping[str, Family]] = {
    "ai21.": Family(),
    "amazon.nova": Family(top_k=("inferenceConfig", "topK")),
    "amazon.titan-embed-text": Family(embeds="titan"),
    "anthropic.": Family(top_k=("top_k",)),
    "cohere.command": Family(top_k=("k",), seed=("seed",)),
    "cohere.embed": Family(embeds="cohere"),
    "meta.llama": Family(completes=True),
    "mistral.": Family(top_k=("top_k",)),
}
"""By the beginning of a model's id."""


def family_of(model: str) -> Family:
    """Of a model's id or an inference profile's."""
    own = parted(model)[1]
    return next((family for start, family in _FAMILIES.items() if own.startswith(start)), Family())


def own_fields(model: str, top_k: int | None, seed: int | None) -> dict[str, Any]:
    """What only this family understands. Raises Unsupported for a `top_k` that it has no word for; a seed is used where
    it can be.
    """
    family = family_of(model)
    fields: dict[str, Any] = {}
    if top_k is not None:
        if not family.top_k:
            raise Unsupported(f"{model} has no top_k; use top_p or temperature")
        _put(fields, family.top_k, top_k)
    if seed is not None and family.seed:
        _put(fields, family.seed, seed)
    return fields


def _put(fields: dict[str, Any], path: tuple[str, ...], value: int) -> None:
    *above, name = path
    for each in above:
        fields = fields.setdefault(each, {})
    fields[name] = value
