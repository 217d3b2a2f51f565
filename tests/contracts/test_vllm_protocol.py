"""remote::vllm satisfies the whole contract of inference providers, over a fake that speaks vLLM's protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services.inference import texts
from services.inference.providers.vllm import VLLM, VLLMConfig
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.vllm_server import VLLMServer

CONNECTIONS = 4
MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class TestVLLMProtocol(FailingContract):
    kind = "remote::vllm"

    @pytest.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with VLLMServer(MODEL) as server:
            config = VLLMConfig(url=server.url, max_connections=CONNECTIONS, connect_timeout=0.5, read_timeout=3.0)

            async with VLLM(config) as provider:
                yield Subject.over(
                    server,
                    provider,
                    MODEL,
                    places=CONNECTIONS,
                    aliases=("Llama3.1-8B-Instruct",),
                    unicode=pb.CompletionRequest(
                        model_id=MODEL, content=texts.content("say 😀🎉 é日本"), sampling_params=greedy(3)
                    ),
                )
