"""remote::vllm satisfies the contract of inference providers, on a real backend that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import ClassVar

import aiohttp
import pytest
import pytest_asyncio

from services.inference import texts
from services.inference.llamacpp.models import BUNDLED, locate
from services.inference.llamacpp.templates import template_of
from services.inference.providers.vllm import VLLM, VLLMConfig
from services.inference.remote.http import Http
from stackmesh.common.v1 import content_pb2
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider import examples
from tests.contracts.inference_provider.contract import InferenceProviderContract
from tests.contracts.inference_provider.held import Held, check_held_is_seen
from tests.contracts.inference_provider.subject import Subject, greedy
from tests.contracts.inference_provider.taught import called
from tests.fakes.llamacpp_server import CONTEXT_TOKENS, MODEL, llamacpp_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONNECTIONS = 4
SILENT = (
    "llama.cpp's server does not see that its client has gone until it has something to send: not while it reads a "
    "prompt, and never in what is not streamed; that the connection is closed at once is shown in "
    "tests/unit/services/inference/openai/test_compatible.py"
)


def subject_of(provider: VLLM, root: str, watcher: aiohttp.ClientSession) -> Subject:
    async def working() -> int:
        async with watcher.get(f"{root}/slots") as response:
            return sum(slot["is_processing"] for slot in await response.json())

    emoji = pb.CompletionRequest(model_id=MODEL, content=texts.content("😀🎉🚀" * 3), sampling_params=greedy(12))
    return Subject(provider, MODEL, CONTEXT_TOKENS, working, places=CONNECTIONS, unicode=emoji)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root() -> AsyncGenerator[str]:
    template = template_of(locate(MODEL, BUNDLED[MODEL]))  # its own knows no tools
    async with llamacpp_server(template.source) as url:
        yield url


@asynccontextmanager
async def opened(root: str, http: type[Http] = Http) -> AsyncGenerator[Subject]:
    provider = VLLM(VLLMConfig(url=f"{root}/v1", max_connections=CONNECTIONS, connect_timeout=0.5))
    provider._transport = http(provider._transport.endpoint)
    async with provider, aiohttp.ClientSession() as watcher:
        yield subject_of(provider, root, watcher)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(root: str) -> AsyncGenerator[Subject]:
    async with opened(root) as subject:
        yield subject


class TestVLLM(InferenceProviderContract):
    kind = "remote::vllm"

    exempt: ClassVar[Mapping[str, str]] = {
        "test_bad_grammar_is_refused_by_the_await": "llama.cpp ignores vLLM's parameter for grammars",
        "test_cancelled_while_its_prompt_is_read": SILENT,
        "test_unary_call_cancelled": SILENT,
        "test_deadline_over": SILENT,
        "test_full_queue_is_refused_with_a_delay": SILENT,
    }

    @pytest.fixture
    def subject(self, shared: Subject) -> Subject:
        return shared


async def test_the_stopping_check_sees_a_backend_that_goes_on(root: str) -> None:
    async with opened(root, Held) as subject:
        await check_held_is_seen(subject, subject.provider._transport)


async def test_a_schema_is_followed(shared: Subject) -> None:
    request = shared.chat("Where is Oslo?", max_tokens=64)
    schema = {"type": "object", "properties": {"n": {"enum": [42]}}, "required": ["n"]}
    request.response_format.json_schema.update(schema)
    answer = await shared.provider.chat_completion(request)
    assert texts.plain(answer.completion_message.content).replace(" ", "").replace("\n", "") == '{"n":42}'


async def test_logprobs_come_with_each_token(shared: Subject) -> None:
    request = shared.chat(max_tokens=4)
    request.logprobs.top_k = 2
    async with aclosing(await shared.provider.stream_chat_completion(request)) as chunks:
        streamed = [entry for chunk in [chunk async for chunk in chunks] for entry in chunk.event.logprobs]
    whole = (await shared.provider.chat_completion(request)).logprobs
    assert len(streamed) == len(whole) == 4
    assert all(entry.logprobs_by_token and max(entry.logprobs_by_token.values()) <= 0 for entry in [*streamed, *whole])


async def test_tools_are_called(shared: Subject) -> None:
    request = examples.request(MODEL, examples.TWO)
    chunks = [chunk async for chunk in await shared.provider.stream_chat_completion(request)]
    assert examples.cities(called([chunk.event for chunk in chunks])) == ["Paris", "London"]
    assert chunks[-1].event.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    answer = (await shared.provider.chat_completion(request)).completion_message
    assert examples.cities(answer.tool_calls) == ["Paris", "London"]
    assert answer.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE


async def test_a_tool_has_to_be_called(shared: Subject) -> None:
    request = examples.request(MODEL, examples.ONE, tool_choice=content_pb2.ToolChoice.TOOL_CHOICE_REQUIRED)
    request.sampling_params.stop.append("</tool_call>")  # llama.cpp's grammar leaves it free to go on calling
    answer = await shared.provider.chat_completion(request)
    assert examples.cities(answer.completion_message.tool_calls) == ["Paris"]
    chunks = [chunk async for chunk in await shared.provider.stream_chat_completion(request)]
    assert examples.cities(called([chunk.event for chunk in chunks])) == ["Paris"]


async def test_results_of_tools_are_read(shared: Subject) -> None:
    answer = await shared.provider.chat_completion(examples.request(MODEL, examples.RESULT))
    assert "17 degrees in Paris" in texts.plain(answer.completion_message.content)
