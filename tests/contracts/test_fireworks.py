"""remote::fireworks satisfies the contract of inference providers, over a fake that speaks Fireworks's protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services.inference import texts
from services.inference.providers.fireworks import Fireworks, FireworksConfig
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.fireworks_server import CHAT_MODEL, EMBEDDING_MODEL, FireworksServer

CONNECTIONS = 4


class TestFireworks(FailingContract):
    kind = "remote::fireworks"

    @pytest.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with FireworksServer(key="fw_own") as server:
            config = FireworksConfig.model_validate(
                {
                    "url": server.root,
                    "api_key": "fw_own",
                    "max_connections": CONNECTIONS,
                    "connect_timeout": 0.5,
                    "read_timeout": 3.0,
                }
            )

            async with Fireworks(config) as provider:
                yield Subject.over(
                    server,
                    provider,
                    CHAT_MODEL,
                    places=CONNECTIONS,
                    aliases=(
                        "Llama3.1-8B-Instruct",
                        "meta-llama/Llama-3.1-8B-Instruct",
                        "fireworks/llama-v3p1-8b-instruct",
                    ),
                    unicode=pb.CompletionRequest(
                        model_id=CHAT_MODEL, content=texts.content("say 😀🎉 é日本"), sampling_params=greedy(3)
                    ),
                    embedding_model=EMBEDDING_MODEL,
                )
