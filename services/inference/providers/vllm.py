"""remote::vllm: models served by vLLM, or by any other server that speaks the OpenAI dialect as vLLM does.

A Llama model is found by its descriptor and by its Hugging Face repository, whichever of them the server calls it by.
Stop sequences are held back by the server itself. Start vLLM with `--served-model-name` when its model is a local
path: a path is no name that can be registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from services.inference import tables
from services.inference.openai.compatible import OpenAICompatible
from services.inference.openai.request import Dialect
from services.inference.remote.config import ServerConfig
from services.inference.remote.http import Http
from services.inference.remote.keys import Key, OwnKey, secret
from services.inference.remote.urls import Url
from stackmesh import calls
from stackmesh.config import Frozen


class VLLMConfig(ServerConfig):
    url: Url
    """The root of its API, for example http://localhost:8000/v1."""
    api_token: OwnKey = None
    """What `vllm serve --api-key` was given. A caller's own, in the provider data, comes before it."""


class VLLMProviderData(BaseModel):
    """What a caller may send with a call."""

    vllm_api_token: Key | None = None


class VLLM(OpenAICompatible):
    Config: ClassVar[type[Frozen]] = VLLMConfig

    def __init__(self, config: VLLMConfig) -> None:
        super().__init__(Http(config.endpoint), Dialect(config.max_tokens, _grammar), tables.llama_by_name())
        self._api_token = config.api_token

    def key(self) -> str | None:
        sent = calls.provider_data(VLLMProviderData)
        return secret(sent.vllm_api_token if sent is not None else None, self._api_token)


def _grammar(grammar: str) -> Mapping[str, Any]:
    """Since vLLM 0.12; it was `guided_grammar` before."""
    return {"structured_outputs": {"grammar": grammar}}
