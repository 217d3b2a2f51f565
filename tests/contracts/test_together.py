"""remote::together satisfies the contract of inference providers, over a fake that speaks Together's protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services.inference import texts
from services.inference.providers.together import Together, TogetherConfig
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.together_server import CHAT_MODEL, EMBEDDING_MODEL, TogetherServer

CONNECTIONS = 4


class TestTogether(FailingContract):
    kind = "remote::together"

    @pytest.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with TogetherServer(key="tgp_own") as server:
            config = TogetherConfig.model_validate(
                {
                    "url": server.root,
                    "api_key": "tgp_own",
                    "max_connections": CONNECTIONS,
                    "connect_timeout": 0.5,
                    "read_timeout": 3.0,
                }
            )

            async with Together(config) as provider:
                yield Subject.over(
                    server,
                    provider,
                    CHAT_MODEL,
                    places=CONNECTIONS,
                    aliases=("Llama3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
                    unicode=pb.CompletionRequest(
                        model_id=CHAT_MODEL, content=texts.content("say 😀🎉 é日本"), sampling_params=greedy(3)
                    ),
                    embedding_model=EMBEDDING_MODEL,
                )
