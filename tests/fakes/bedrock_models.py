"""Some of Bedrock's models, and what each can do.

From https://docs.aws.amazon.com/bedrock/latest/userguide/conversation-inference-supported-models-features.html, for the
choice of a tool https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html, for schemas
https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html (all read in 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CLAUDE = "anthropic.claude-sonnet-4-5-20250929-v1:0"
LLAMA = "meta.llama3-1-8b-instruct-v1:0"
LLAMA_32 = "meta.llama3-2-1b-instruct-v1:0"
TITAN = "amazon.titan-embed-text-v2:0"
COHERE = "cohere.embed-english-v3"
TITAN_IMAGE = "amazon.titan-image-generator-v2:0"


@dataclass(frozen=True)
class Model:
    """What a model can do."""

    family: str
    """claude, llama, titan, cohere or image."""
    on_demand: bool = True
    """Whether it can be called by its own id; else by an inference profile's only."""
    profiles: tuple[str, ...] = ()
    """The geographies it has an inference profile in."""
    tools: bool = False
    streams_tools: bool = False
    choices: tuple[str, ...] = ()
    """Which toolChoice it knows."""
    sees: bool = False
    follows_schemas: bool = False
    most_tokens: int = 4096


MODELS: Mapping[str, Model] = {
    CLAUDE: Model(
        "claude",
        on_demand=False,
        profiles=("us", "eu", "global"),
        tools=True,
        streams_tools=True,
        choices=("auto", "any", "tool"),
        sees=True,
        follows_schemas=True,
        most_tokens=64000,
    ),
    LLAMA: Model("llama", profiles=("us",), tools=True, choices=(), most_tokens=2048),
    LLAMA_32: Model("llama", on_demand=False, profiles=("us", "eu"), most_tokens=2048),
    TITAN: Model("titan"),
    COHERE: Model("cohere"),
    TITAN_IMAGE: Model("image"),
}
