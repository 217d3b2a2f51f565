"""remote::ollama satisfies the contract of inference providers, on a fake that Ollama's own client takes for Ollama."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.inference import texts
from services.inference.providers.ollama import Ollama, OllamaConfig
from services.inference.remote.http import Http
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.held import Held, check_held_is_seen
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.ollama_words import MODEL

CONNECTIONS = 4
EMBEDDER = "all-minilm:latest"


@asynccontextmanager
async def opened(http: type[Http] = Http, **config: Any) -> AsyncGenerator[Subject]:
    async with OllamaServer(MODEL, EMBEDDER, embedders=[EMBEDDER]) as server:
        settings = OllamaConfig(
            url=server.url, max_connections=CONNECTIONS, connect_timeout=0.5, read_timeout=3.0, **config
        )
        async with Ollama(settings, http) as provider:
            emoji = texts.content("say 😀🎉🚀 é日本")
            yield Subject.over(
                server,
                provider,
                MODEL,
                places=CONNECTIONS,
                aliases=("Llama3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
                unicode=pb.CompletionRequest(model_id=MODEL, content=emoji, sampling_params=greedy(3)),
                embedding_model=EMBEDDER,
            )


class TestOllama(FailingContract):
    kind = "remote::ollama"

    @pytest.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with opened() as subject:
            yield subject


class TestOllamaThatLoads(FailingContract):
    """With `load`, `pull` and all that can go along with each request."""

    kind = "remote::ollama"

    @pytest.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with opened(load=True, pull=True, keep_alive="5m", num_ctx=512, api_key="sk-0123456789") as subject:
            yield subject


async def test_the_stopping_check_sees_a_backend_that_goes_on() -> None:
    async with opened(Held) as subject:
        await check_held_is_seen(subject, subject.provider._transport)
