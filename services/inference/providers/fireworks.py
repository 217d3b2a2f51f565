"""remote::fireworks: models that Fireworks hosts, through its SDK.

Facts from docs.fireworks.ai (guides, API reference; read in 2026) and the types of `fireworks-ai` 1.2. Some names of
models are short for others: `fireworks/x` for `accounts/fireworks/models/x`. What is not streamed has at most 4096
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import fireworks
import httpx
from pydantic import BaseModel, SecretStr

from services.inference import tables
from services.inference.openai.hosted import Hosted, HostedConfig, HostUrl
from services.inference.openai.request import Dialect
from services.inference.remote.keys import Key
from services.inference.remote.sdk import Client, SdkHttp
from stackmesh import calls
from stackmesh.config import Frozen
from stackmesh.errors import Internal

_SHORT: Final = "fireworks/"
_FULL: Final = "accounts/fireworks/models/"
_DRAWS: Final = "FLUMINA_BASE_MODEL"
"""The kind of models that make pictures."""


class FireworksConfig(HostedConfig):
    url: HostUrl = "https://api.fireworks.ai"


class FireworksProviderData(BaseModel):
    """What a caller may send with a call."""

    fireworks_api_key: Key | None = None


class Fireworks(Hosted):
    Config: ClassVar[type[Frozen]] = FireworksConfig

    def __init__(self, config: FireworksConfig) -> None:
        dialect = Dialect(
            config.max_tokens,
            _grammar,
            without_limit={"max_tokens": None},
            usage_unasked=True,
            most_stops=4,
            most_logprobs=5,
            most_images=30,
        )
        transport = SdkHttp(config.endpoint, fireworks, lambda pool: _client(config, pool), "/inference/v1")
        super().__init__(config, transport, dialect, tables.provider("fireworks"), "fireworks_api_key")

    def sent_key(self) -> SecretStr | None:
        sent = calls.provider_data(FireworksProviderData)
        return sent.fireworks_api_key if sent is not None else None

    def ids(self, listing: Any) -> Sequence[str]:
        return [model["id"] for model in listing["data"] if model.get("kind") != _DRAWS]

    def full(self, name: str) -> str:
        return _FULL + name.removeprefix(_SHORT) if name.startswith(_SHORT) else name

    async def listed(self, key: str) -> Sequence[str] | None:
        """As many accounts have no other answer than 500 (github.com/The-AgenticFlow/openflows/issues/129)."""
        try:
            return await super().listed(key)
        except Internal as error:
            if error.message.startswith(f"{self._where} answered 500"):
                return None
            raise


def _client(config: FireworksConfig, pool: httpx.AsyncClient) -> Client:
    return fireworks.AsyncFireworks(
        api_key="", base_url=config.url, max_retries=0, timeout=config.read_timeout, http_client=pool
    )


def _grammar(grammar: str) -> Mapping[str, Any]:
    """In GBNF."""
    return {"response_format": {"type": "grammar", "grammar": grammar}}
