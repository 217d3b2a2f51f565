"""inline::llamacpp satisfies the contract of inference providers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.llamacpp.engine import Run
from services.inference.llamacpp.server import Message
from services.inference.providers.llamacpp import LlamaCpp, LlamaCppConfig
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.contract import InferenceProviderContract
from tests.contracts.inference_provider.stopping import Leave, check_stops, leave_decoding, leave_reading, stopped
from tests.contracts.inference_provider.subject import Subject, greedy

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("llama.cpp")]

MODEL = "smollm2-135m-instruct"
CONFIG = LlamaCppConfig(context_tokens=1024, max_queue=2)


def subject_of(provider: LlamaCpp) -> Subject:
    async def working() -> int:
        text = await asyncio.to_thread(provider._server.handle_metrics)
        match = re.search(r"^llamacpp:requests_processing (\d+)", text, re.MULTILINE)
        assert match is not None, text
        return int(match[1])

    unicode = pb.CompletionRequest(model_id=MODEL, content=texts.content("x"), sampling_params=greedy(13))
    unicode.response_format.grammar = 'root ::= "ab😀é日本"'
    return Subject(
        provider=provider,
        model=MODEL,
        context_tokens=CONFIG.context_tokens,
        working=working,
        places=CONFIG.n_parallel + CONFIG.max_queue,
        aliases=("HuggingFaceTB/SmolLM2-135M-Instruct",),
        unicode=unicode,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened() -> AsyncGenerator[Subject]:
    async with LlamaCpp(CONFIG) as provider:
        yield subject_of(provider)


class TestLlamaCpp(InferenceProviderContract):
    kind = "inline::llamacpp"

    @pytest.fixture
    def subject(self, opened: Subject) -> Subject:
        return opened


class Deaf(Run):
    """The planted bug: llama.cpp is never told to stop."""

    def _hear(self, message: Message) -> bool:
        super()._hear(message)
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deaf() -> AsyncGenerator[Subject]:
    config = LlamaCppConfig(context_tokens=1024, embeddings=False)
    async with LlamaCpp(config, run=Deaf) as provider:
        yield subject_of(provider)


@pytest.mark.parametrize("leave", [leave_reading, leave_decoding])
async def test_the_stopping_checks_see_a_backend_that_goes_on(deaf: Subject, leave: Leave) -> None:
    with pytest.raises(pytest.fail.Exception, match="has stopped"):
        await check_stops(deaf, leave, attempts=1)
    await stopped(deaf, limit=30)
