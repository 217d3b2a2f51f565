"""The fake of Together, as Together's own SDK sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
import together
from together import AsyncTogether

from tests.fakes.together_server import CHAT_MODEL, EMBEDDING_MODEL, UNCOUNTED_MODEL, TogetherServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def server() -> AsyncGenerator[TogetherServer]:
    async with TogetherServer(key="tgp_right") as server:
        yield server


@pytest.fixture
async def client(server: TogetherServer) -> AsyncGenerator[AsyncTogether]:
    async with AsyncTogether(api_key="tgp_right", base_url=server.root, max_retries=0) as client:
        yield client


def said(text: str) -> dict[str, Any]:
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}]}


async def test_models_are_a_list_with_types(client: AsyncTogether, server: TogetherServer) -> None:
    """The SDK has a method for those of a project only."""
    models = (await client.get("/v1/models", cast_to=httpx.Response)).json()
    assert {model["id"]: model["type"] for model in models} == {
        CHAT_MODEL: "chat",
        EMBEDDING_MODEL: "embedding",
        UNCOUNTED_MODEL: "embedding",
        server.not_serverless: "chat",
    }


async def test_a_chat(client: AsyncTogether, server: TogetherServer) -> None:
    answer = await client.chat.completions.create(**said("say hello"), max_tokens=9, top_k=3, repetition_penalty=1.1)
    choice = answer.choices[0]
    assert choice.message is not None
    assert (choice.message.content, choice.finish_reason) == ("hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 2)
    assert (server.asked[-1].model, server.asked[-1].max_tokens) == (CHAT_MODEL, 9)


async def test_a_stream_ends_with_the_usage(client: AsyncTogether) -> None:
    stream = await client.chat.completions.create(**said("say hello"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_probabilities_are_lists_and_in_a_stream_numbers(client: AsyncTogether) -> None:
    answer = await client.chat.completions.create(**said("say hello"), logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert (found.tokens, found.token_logprobs) == (["hel", "lo"], [-0.1, -0.1])
    stream = await client.chat.completions.create(**said("say hello"), logprobs=2, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert [choice.logprobs for choice in choices if choice.logprobs is not None] == [-0.1, -0.1]
    assert choices[1].top_logprobs == {"hel": -0.1, "hel0": -1.0}
    silent = await client.chat.completions.create(**said("say hello"), logprobs=0)
    assert silent.choices[0].logprobs is None


async def test_tools(client: AsyncTogether) -> None:
    whole = await client.chat.completions.create(**said("call weather"), tools=[WEATHER])
    message = whole.choices[0].message
    assert message is not None
    assert message.tool_calls is not None
    assert (message.tool_calls[0].function.name, message.tool_calls[0].function.arguments) == (
        "weather",
        '{"city": "Oslo"}',
    )
    assert whole.choices[0].finish_reason == "tool_calls"
    named = {"type": "function", "function": {"name": "weather"}}
    stream = await client.chat.completions.create(
        **said("no"),
        tools=[WEATHER],
        stream=True,
        extra_body={"tool_choice": named},
    )
    pieces = [piece async for chunk in stream for piece in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].function.name == "weather"
    assert "".join(piece.function.arguments or "" for piece in pieces) == '{"city": "Oslo"}'


async def test_a_schema(client: AsyncTogether, server: TogetherServer) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    answer = await client.chat.completions.create(**said("which?"), response_format=wanted)
    assert answer.choices[0].message is not None
    assert answer.choices[0].message.content == '{"n": 42}'
    assert server.asked[-1].schema == schema


async def test_completions(client: AsyncTogether) -> None:
    answer = await client.completions.create(model=CHAT_MODEL, prompt="say hello", max_tokens=2, logprobs=1)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hello", "length")
    stream = await client.completions.create(model=CHAT_MODEL, prompt="say hello", stream=True)
    chunks: list[Any] = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"
    assert chunks[-1].usage.prompt_tokens == 4


@pytest.mark.parametrize(("model", "counted"), [(EMBEDDING_MODEL, True), (UNCOUNTED_MODEL, False)])
async def test_embeddings(client: AsyncTogether, server: TogetherServer, model: str, counted: bool) -> None:
    answer = await client.embeddings.create(model=model, input=["a cat", "a dog"])
    vectors = {item.index: item.embedding for item in answer.data}
    assert vectors == {0: server.model.embed("a cat"), 1: server.model.embed("a dog")}
    assert hasattr(answer, "usage") == counted


async def test_its_errors_are_the_documented_ones(client: AsyncTogether, server: TogetherServer) -> None:
    chat = client.chat.completions.create
    with pytest.raises(together.AuthenticationError, match="Invalid API key provided"):
        await client.with_options(api_key="tgp_wrong").chat.completions.create(**said("hi"))
    with pytest.raises(together.NotFoundError, match="gone"):
        await chat(**said("hi") | {"model": "gone"})
    with pytest.raises(together.BadRequestError, match="non-serverless"):
        await chat(**said("hi") | {"model": server.not_serverless})
    with pytest.raises(together.BadRequestError, match=r"must be <= 512\. Given: 602"):
        await chat(**said("word " * 600))
    with pytest.raises(together.BadRequestError, match="Unrecognized request arguments supplied: grammar"):
        await chat(**said("hi"), extra_body={"grammar": "x"})
    with pytest.raises(together.BadRequestError):
        await chat(**said("hi"), extra_body={"logprobs": True})
    server.reply = server.refusal(429, "7")
    with pytest.raises(together.RateLimitError) as caught:
        await chat(**said("hi"))
    assert caught.value.response.headers["retry-after"] == "7"
