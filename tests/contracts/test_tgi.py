"""remote::tgi satisfies the contract of inference providers, on a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.providers.tgi import TGI, TGIConfig
from services.inference.remote.http import Http
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.stopping import check_closed_decoding, stopped
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.tgi_server import LLAMA, TGIServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 4


@asynccontextmanager
async def opened(server: TGIServer, http: type[Http] = Http) -> AsyncGenerator[Subject]:
    config = TGIConfig(url=server.url, max_connections=CONNECTIONS, connect_timeout=0.5, read_timeout=2.0)
    provider = TGI(config)
    provider._transport = http(provider._transport.endpoint, provider._transport._meaning)

    async def working() -> int:
        return server.working

    unicode = pb.CompletionRequest(
        model_id=LLAMA, content=texts.content("say 😀🎉é日本 zażółć 🚀"), sampling_params=greedy(12)
    )
    async with provider:
        yield Subject(
            provider,
            LLAMA,
            server.model.context_tokens,
            working,
            places=CONNECTIONS,
            aliases=("Llama3.1-8B-Instruct", LLAMA),
            unicode=unicode,
            grammar="yes",
            bad_grammar="yes((",
            backend=server,
        )


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncGenerator[TGIServer]:
    async with TGIServer() as server:
        yield server


class TestTGI(FailingContract):
    kind = "remote::tgi"

    @pytest_asyncio.fixture(loop_scope="module")
    async def subject(self, server: TGIServer) -> AsyncGenerator[Subject]:
        async with opened(server) as subject:
            yield subject


class Held(Http):
    """The planted bug: the response is never closed."""

    held: ClassVar[list[Any]] = []

    @asynccontextmanager
    async def stream(self, path: str, body: Any, key: str | None) -> AsyncGenerator[Any]:
        opening = Http.stream(self, path, body, key)
        self.held.append(opening)
        yield await opening.__aenter__()


async def test_the_stopping_check_sees_a_backend_that_goes_on(server: TGIServer) -> None:
    async with opened(server, Held) as subject:
        with pytest.raises(pytest.fail.Exception, match="has stopped"):
            await check_closed_decoding(subject, attempts=1)
        for opening in Held.held:
            await opening.__aexit__(None, None, None)
        await stopped(subject)
