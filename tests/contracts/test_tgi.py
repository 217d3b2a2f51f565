"""remote::tgi satisfies the contract of inference providers, on a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.providers.tgi import TGI, TGIConfig
from services.inference.remote.http import Http
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.held import Held, check_held_is_seen
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.tgi_server import LLAMA, TGIServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 4


@asynccontextmanager
async def opened(server: TGIServer, http: type[Http] = Http) -> AsyncGenerator[Subject]:
    config = TGIConfig(url=server.url, max_connections=CONNECTIONS, connect_timeout=0.5, read_timeout=2.0)
    provider = TGI(config)
    provider._transport = http(provider._transport.endpoint, provider._transport._meaning)

    unicode = pb.CompletionRequest(
        model_id=LLAMA, content=texts.content("say 😀🎉é日本 zażółć 🚀"), sampling_params=greedy(12)
    )
    async with provider:
        yield Subject.over(
            server,
            provider,
            LLAMA,
            places=CONNECTIONS,
            aliases=("Llama3.1-8B-Instruct", LLAMA),
            unicode=unicode,
            grammar="yes",
            bad_grammar="yes((",
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


async def test_the_stopping_check_sees_a_backend_that_goes_on(server: TGIServer) -> None:
    async with opened(server, Held) as subject:
        await check_held_is_seen(subject, subject.provider._transport)
