"""The fake of Fireworks, as Fireworks' own SDK sees it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import fireworks
import httpx
import pytest
from fireworks import AsyncFireworks

from tests.fakes.fireworks_server import CHAT_MODEL, EMBEDDING_MODEL, FireworksServer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def server() -> AsyncGenerator[FireworksServer]:
    async with FireworksServer(key="fw_right") as server:
        yield server


@pytest.fixture
async def client(server: FireworksServer) -> AsyncGenerator[AsyncFireworks]:
    """With another base URL than its own, the SDK does not add /inference."""
    async with AsyncFireworks(api_key="fw_right", base_url=f"{server.root}/inference", max_retries=0) as client:
        yield client


def said(text: str) -> dict[str, Any]:
    return {"model": CHAT_MODEL, "messages": [{"role": "user", "content": text}]}


async def test_models(client: AsyncFireworks, server: FireworksServer) -> None:
    """The SDK has no method for those of inference."""
    models = (await client.get("/v1/models", cast_to=httpx.Response)).json()["data"]
    assert [(model["id"], model["kind"]) for model in models] == [
        (CHAT_MODEL, "HF_BASE_MODEL"),
        ("accounts/fireworks/models/flux-1-schnell-fp8", "FLUMINA_BASE_MODEL"),
    ]
    server.lists = False
    with pytest.raises(fireworks.InternalServerError, match="Internal Server Error"):
        await client.get("/v1/models", cast_to=httpx.Response)


async def test_a_chat(client: AsyncFireworks) -> None:
    answer = await client.chat.completions.create(**said("say hello"), max_tokens=9, top_k=3, repetition_penalty=1.1)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 2)


async def test_a_stream_ends_with_the_usage(client: AsyncFireworks) -> None:
    stream = await client.chat.completions.create(**said("say hello"), stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_probabilities(client: AsyncFireworks) -> None:
    answer: Any = await client.chat.completions.create(**said("say hello"), logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [(entry["token"], entry["logprob"], len(entry["top_logprobs"])) for entry in content] == [
        ("hel", -0.1, 2),
        ("lo", -0.1, 2),
    ]


async def test_tools(client: AsyncFireworks) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    whole: Any = await client.chat.completions.create(**said("no"), tools=[WEATHER], tool_choice=named)
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city": "Oslo"}'
    stream: Any = await client.chat.completions.create(**said("call weather"), tools=[WEATHER], stream=True)
    pieces = [piece async for chunk in stream for piece in chunk.choices[0].delta.tool_calls or ()]
    assert pieces[0].function.name == "weather"
    assert "".join(piece.function.arguments or "" for piece in pieces) == '{"city": "Oslo"}'


async def test_formats(client: AsyncFireworks) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    formats: list[Any] = [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        {"type": "grammar", "grammar": 'root ::= "yes"'},
    ]
    answers = [await client.chat.completions.create(**said("?"), response_format=wanted) for wanted in formats]
    assert [answer.choices[0].message.content for answer in answers] == ['{"n": 42}', "yes"]


async def test_completions(client: AsyncFireworks) -> None:
    answer = await client.completions.create(model=CHAT_MODEL, prompt="say hello", max_tokens=2)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("hello", "length")
    stream = await client.completions.create(model=CHAT_MODEL, prompt="say hello", stream=True)
    chunks: list[Any] = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"


async def test_embeddings(client: AsyncFireworks, server: FireworksServer) -> None:
    """For these it has no method either."""
    body = {"model": EMBEDDING_MODEL, "input": ["a cat", "a dog"]}
    answer = (await client.post("/v1/embeddings", cast_to=httpx.Response, body=body)).json()
    assert {item["index"]: item["embedding"] for item in answer["data"]} == {
        0: server.model.embed("a cat"),
        1: server.model.embed("a dog"),
    }
    assert answer["usage"]["prompt_tokens"] == 8


async def test_its_errors_are_the_documented_ones(client: AsyncFireworks, server: FireworksServer) -> None:
    chat = client.chat.completions.create
    with pytest.raises(fireworks.AuthenticationError, match="Invalid API key"):
        await client.with_options(api_key="fw_wrong").chat.completions.create(**said("hi"))
    with pytest.raises(fireworks.NotFoundError, match="Model not found, inaccessible"):
        await chat(**said("hi") | {"model": "gone"})
    with pytest.raises(fireworks.BadRequestError, match="prompt is too long: 602, model maximum context length: 512"):
        await chat(**said("word " * 600))
    with pytest.raises(fireworks.BadRequestError, match="Extra inputs are not permitted, field: 'stream_options'"):
        await chat(**said("hi"), extra_body={"stream_options": {"include_usage": True}})
    with pytest.raises(fireworks.BadRequestError, match="must have stream=true"):
        await chat(**said("hi"), max_tokens=5000)
    for wrong in ({"stop": list("abcde")}, {"logprobs": True, "top_logprobs": 6}):
        with pytest.raises(fireworks.BadRequestError):
            await chat(**said("hi"), extra_body=wrong)
    server.reply = server.refusal(429, "7")
    with pytest.raises(fireworks.RateLimitError) as caught:
        await chat(**said("hi"))
    assert caught.value.response.headers["retry-after"] == "7"
