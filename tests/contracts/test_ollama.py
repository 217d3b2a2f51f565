"""remote::ollama satisfies the contract of inference providers, on a fake that Ollama's own client takes for Ollama."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from services.inference import texts
from services.inference.providers.ollama import Ollama, OllamaConfig
from services.inference.remote.http import Http
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.stopping import check_closed_decoding, stopped
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

            async def working() -> int:
                return server.working

            emoji = texts.content("say 😀🎉🚀 é日本")
            yield Subject(
                provider,
                MODEL,
                server.model.context_tokens,
                working,
                places=CONNECTIONS,
                aliases=("Llama3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
                unicode=pb.CompletionRequest(model_id=MODEL, content=emoji, sampling_params=greedy(3)),
                embedding_model=EMBEDDER,
                backend=server,
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


class Held(Http):
    """The planted bug: the response is never closed."""

    held: ClassVar[list[Any]] = []

    @asynccontextmanager
    async def stream(self, path: str, body: Any, key: str | None) -> AsyncGenerator[Any]:
        opening = Http.stream(self, path, body, key)
        self.held.append(opening)
        yield await opening.__aenter__()


async def test_the_stopping_check_sees_a_backend_that_goes_on() -> None:
    async with opened(Held) as subject:
        with pytest.raises(pytest.fail.Exception, match="has stopped"):
            await check_closed_decoding(subject, attempts=1)
        for opening in Held.held:
            await opening.__aexit__(None, None, None)
        await stopped(subject)
