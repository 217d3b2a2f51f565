"""remote::vllm: models served by vLLM, or by any other server that speaks the OpenAI dialect as vLLM does.

A Llama model is found by its descriptor and by its Hugging Face repository, whichever of them the server calls it by.
Stop sequences are held back by the server itself. Start vLLM with `--served-model-name` when its model is a local
path: a path is no name that can be registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, PositiveFloat, PositiveInt

from services.inference import tables
from services.inference.openai.compatible import OpenAICompatible
from services.inference.openai.request import Dialect
from services.inference.remote.http import Endpoint, Http
from services.inference.remote.keys import Key, OwnKey, secret
from services.inference.remote.urls import Url
from stackmesh import calls
from stackmesh.config import Frozen


class VLLMConfig(Frozen):
    url: Url
    """The root of its API, for example http://localhost:8000/v1."""
    api_token: OwnKey = None
    """What `vllm serve --api-key` was given. A caller's own, in the provider data, comes before it."""
    max_tokens: PositiveInt | None = None
    """For requests that set none. Absent: up to the context."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds to connect, or to wait for a connection to become free."""
    read_timeout: PositiveFloat = 60.0
    """Seconds of silence, before the first token or between two. What is not streamed is silent to its end."""
    max_connections: PositiveInt = 256
    """Calls at a time; more wait for `connect_timeout`. It is for the server to say when it has too many."""
    tls_verify: bool = True
    """Whether the certificate of an https server has to be valid."""


class VLLMProviderData(BaseModel):
    """What a caller may send with a call."""

    vllm_api_token: Key | None = None


class VLLM(OpenAICompatible):
    Config: ClassVar[type[Frozen]] = VLLMConfig

    def __init__(self, config: VLLMConfig) -> None:
        endpoint = Endpoint(
            config.url, config.connect_timeout, config.read_timeout, config.max_connections, config.tls_verify
        )
        super().__init__(Http(endpoint), Dialect(config.max_tokens, _grammar), tables.llama_by_name())
        self._api_token = config.api_token

    def key(self) -> str | None:
        sent = calls.provider_data(VLLMProviderData)
        return secret(sent.vllm_api_token if sent is not None else None, self._api_token)


def _grammar(grammar: str) -> Mapping[str, Any]:
    """Since vLLM 0.12; it was `guided_grammar` before."""
    return {"structured_outputs": {"grammar": grammar}}
