"""remote::bedrock satisfies the contract of inference providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest_asyncio

from services.inference import texts
from services.inference.providers.bedrock import Bedrock, BedrockConfig
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.failing import FailingContract
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.fakes.bedrock_models import CLAUDE, LLAMA, TITAN
from tests.fakes.bedrock_server import OWN, BedrockServer

CONNECTIONS = 4
[(KEY_ID, OWNER)] = OWN.items()


@dataclass(frozen=True)
class BedrockSubject(Subject):
    """Claude talks, Llama continues texts: no model on Bedrock does both."""

    def completion(self, text: str = "1, 2, 3, 4,", *, max_tokens: int = 16) -> pb.CompletionRequest:
        return pb.CompletionRequest(model_id=LLAMA, content=texts.content(text), sampling_params=greedy(max_tokens))


def config(server: BedrockServer, **more: object) -> BedrockConfig:
    return BedrockConfig.model_validate(
        {
            "region_name": "us-east-1",
            "aws_access_key_id": KEY_ID,
            "aws_secret_access_key": OWNER.secret,
            "endpoint_url": server.root,
            "control_endpoint_url": server.root,
            "connect_timeout": 0.5,
            "read_timeout": 3.0,
            "max_connections": CONNECTIONS,
            **more,
        }
    )


@asynccontextmanager
async def opened() -> AsyncGenerator[Subject]:
    async with BedrockServer() as server, Bedrock(config(server)) as provider:
        server.model.token_seconds = 0.002  # tokens that go by a thread come apart

        unicode = pb.CompletionRequest(
            model_id=LLAMA, content=texts.content("say 😀🎉é日本🚀"), sampling_params=greedy(3)
        )
        yield BedrockSubject.over(
            server,
            provider,
            f"us.{CLAUDE}",
            places=CONNECTIONS,
            aliases=(CLAUDE,),
            unicode=unicode,
            embedding_model=TITAN,
        )


class TestBedrock(FailingContract):
    kind = "remote::bedrock"

    @pytest_asyncio.fixture
    async def subject(self) -> AsyncGenerator[Subject]:
        async with opened() as subject:
            yield subject
