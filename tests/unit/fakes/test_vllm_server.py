"""The fake of vLLM, as a client of the OpenAI dialect sees it that is not ours: huggingface_hub's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.fakes.vllm_server import VLLMServer

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def server() -> AsyncGenerator[VLLMServer]:
    async with VLLMServer(MODEL, key="right") as server:
        yield server


@pytest.fixture
async def client(server: VLLMServer) -> AsyncGenerator[AsyncInferenceClient]:
    async with AsyncInferenceClient(base_url=server.url, api_key="right") as client:
        yield client


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_models_say_how_long_their_context_is(server: VLLMServer) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}/models", headers={"Authorization": "Bearer right"}) as response:
            [model] = (await response.json())["data"]
    assert (model["id"], model["max_model_len"]) == (MODEL, 512)


async def test_a_chat(client: AsyncInferenceClient) -> None:
    answer = await client.chat_completion(said("say hello"), model=MODEL, max_tokens=9, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("hello", "stop")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 2)
    assert choice.logprobs is not None
    assert [(entry.token, len(entry.top_logprobs)) for entry in choice.logprobs.content] == [("hel", 2), ("lo", 2)]


async def test_a_stream(client: AsyncInferenceClient) -> None:
    options: Any = {"include_usage": True}
    stream = await client.chat_completion(said("say hello"), model=MODEL, stream=True, stream_options=options)
    *chunks, counted = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert counted.choices == []
    assert counted.usage is not None
    assert counted.usage.completion_tokens == 2


async def test_tools(client: AsyncInferenceClient) -> None:
    answer = await client.chat_completion(said("call weather"), model=MODEL, tools=[WEATHER], tool_choice="auto")
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert (calls[0].function.name, calls[0].function.arguments) == ("weather", '{"city": "Oslo"}')
    stream = await client.chat_completion(said("no"), model=MODEL, tools=[WEATHER], tool_choice="required", stream=True)
    pieces = [piece async for chunk in stream for piece in chunk.choices[0].delta.tool_calls or ()]
    assert "".join(piece.function.arguments for piece in pieces) == '{"city": "Oslo"}'


@pytest.mark.parametrize(
    ("extra", "said_back"),
    [
        ({"structured_outputs": {"grammar": 'root ::= "yes"'}}, "yes"),
        ({"guided_grammar": 'root ::= "yes"'}, "?"),  # its name until 0.12 is ignored
    ],
)
async def test_a_grammar(client: AsyncInferenceClient, extra: dict[str, Any], said_back: str) -> None:
    answer = await client.chat_completion(said("say ?"), model=MODEL, extra_body=extra)
    assert answer.choices[0].message.content == said_back


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"model": "gone"}, 404, "The model `gone` does not exist."),
        ({"messages": said("word " * 600)}, 400, "length is 512 tokens. However, your request has 602 input tokens."),
        ({"extra_body": {"structured_outputs": {"grammar": "(("}}}, 400, "Invalid grammar specification."),
    ],
)
async def test_its_errors(client: AsyncInferenceClient, request_: dict[str, Any], status: int, message: str) -> None:
    with pytest.raises(HfHubHTTPError) as caught:
        await client.chat_completion(**{"messages": said("hi"), "model": MODEL, **request_})
    assert caught.value.response.status_code == status
    assert message in str(caught.value) + str(caught.value.server_message)


async def test_it_wants_its_key(server: VLLMServer) -> None:
    async with AsyncInferenceClient(base_url=server.url, api_key="wrong") as client:
        with pytest.raises(HfHubHTTPError) as caught:
            await client.chat_completion(said("hi"), model=MODEL)
    assert caught.value.response.status_code == 401
