"""remote::together: models that Together hosts, through its SDK.

Facts from docs.together.ai (inference; read in 2026), its OpenAPI document (github.com/togethercomputer/openapi, April
2026) and the types of `together` 3.1. Its list has models, too, that it does not serve to everybody: the first call
says so. Unlike OpenAI's, its probabilities are asked for by a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import httpx
import together
from pydantic import BaseModel, SecretStr

from services.inference import tables
from services.inference.openai.hosted import Hosted, HostedConfig, HostUrl
from services.inference.openai.request import Dialect
from services.inference.remote.errors import refusal
from services.inference.remote.keys import Key
from services.inference.remote.sdk import Client, SdkHttp
from stackmesh import calls
from stackmesh.config import Frozen
from stackmesh.errors import BackendRejected, MeshError, NotServing, Unsupported

_CALLABLE: Final = ("chat", "language", "code", "moderation", "embedding")
"""The types of models for chats, completions and embeddings. The others draw, speak or rank."""

_NOT_SERVED: Final = (b'"model_not_available"', b'"dedicated_endpoint_not_running"')
"""The codes, with a 400, for models that it has and does not serve to everybody."""


class TogetherConfig(HostedConfig):
    url: HostUrl = "https://api.together.ai"


class TogetherProviderData(BaseModel):
    """What a caller may send with a call."""

    together_api_key: Key | None = None


class Together(Hosted):
    Config: ClassVar[type[Frozen]] = TogetherConfig

    def __init__(self, config: TogetherConfig) -> None:
        dialect = Dialect(
            config.max_tokens,
            _grammar,
            chat_logprobs=lambda top: {"logprobs": top},
            least_logprobs=1,
            without_limit={"max_tokens": None},
            usage_unasked=True,
            formatted_completions=False,
        )
        transport = SdkHttp(config.endpoint, together, lambda pool: _client(config, pool), "/v1", _refusal)
        super().__init__(config, transport, dialect, tables.provider("together"), "together_api_key")

    def sent_key(self) -> SecretStr | None:
        sent = calls.provider_data(TogetherProviderData)
        return sent.together_api_key if sent is not None else None

    def ids(self, listing: Any) -> Sequence[str]:
        return [model["id"] for model in listing if model["type"] in _CALLABLE]


def _client(config: TogetherConfig, pool: httpx.AsyncClient) -> Client:
    return together.AsyncTogether(
        api_key="", base_url=config.url, max_retries=0, timeout=config.read_timeout, http_client=pool
    )


def _grammar(_grammar: str) -> Mapping[str, Any]:
    raise Unsupported("Together follows no grammars; ask for a JSON schema")


def _refusal(where: str, status: int, body: bytes, *, retry_after: str = "", key: str | None = None) -> MeshError:
    found = refusal(where, status, body, retry_after=retry_after, key=key)
    if status == 400 and any(code in body for code in _NOT_SERVED):
        return NotServing(found.message)
    if status == 403 and b"context length" in body:  # the prompt and `max_tokens` are too much together
        return BackendRejected(found.message)
    return found
