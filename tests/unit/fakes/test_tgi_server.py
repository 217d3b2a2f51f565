"""The fake of text-generation-inference, driven by Hugging Face's own client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import GenerationError, HfHubHTTPError, OverloadedError, ValidationError

from tests.fakes.http_server import Reply
from tests.fakes.tgi_server import LLAMA, TGIServer

T = TypeVar("T")
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}}


@pytest.fixture
async def server() -> AsyncGenerator[TGIServer]:
    async with TGIServer() as server:
        yield server


async def ask(server: TGIServer, question: Callable[[InferenceClient], T], token: str = "") -> T:
    """The client blocks, so it asks from a thread."""

    def asking() -> T:
        with InferenceClient(model=server.root, token=token or server.key or "hf_none", timeout=10) as client:
            return question(client)

    async with asyncio.timeout(20):
        return await asyncio.to_thread(asking)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


async def test_it_tells_of_its_model(server: TGIServer) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{server.root}/info") as response:
        info = await response.json()
    assert (info["model_id"], info["max_total_tokens"], info["max_input_tokens"]) == (LLAMA, 512, 511)


async def test_text_with_details(server: TGIServer) -> None:
    said = await ask(
        server, lambda client: client.text_generation("say hello", details=True, max_new_tokens=20, top_n_tokens=2)
    )
    assert said.generated_text == "hello"
    assert [token.text for token in said.details.tokens] == ["hel", "lo", "<|eot_id|>"]
    assert [token.special for token in said.details.tokens] == [False, False, True]
    assert (said.details.finish_reason, said.details.generated_tokens) == ("eos_token", 3)
    assert [len(top) for top in said.details.top_tokens] == [2, 2, 1]


async def test_streamed_text(server: TGIServer) -> None:
    events = await ask(
        server, lambda client: list(client.text_generation("say hello", details=True, stream=True, max_new_tokens=20))
    )
    assert [event.token.text for event in events] == ["hel", "lo", "<|eot_id|>"]
    assert [event.index for event in events] == [1, 2, 3]
    *others, last = events
    assert all(event.details is None and event.generated_text is None for event in others)
    assert last.generated_text == "hello"
    assert (last.details.finish_reason, last.details.generated_tokens, last.details.input_length) == ("eos_token", 3, 4)


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [
        ("lo w", "hello wor", "eos_token"),  # no token ends with it
        ("lo ", "hello ", "stop_sequence"),
        ("e", "hello wor", "eos_token"),
    ],
)
async def test_a_stop_sequence_is_part_of_the_text_and_counts_at_its_end_only(
    server: TGIServer, stop: str, text: str, reason: str
) -> None:
    said = await ask(server, lambda client: client.text_generation("say hello wor", details=True, stop=[stop]))
    assert (said.generated_text, said.details.finish_reason) == (text, reason)


@pytest.mark.parametrize(
    ("grammar", "text"),
    [
        ({"type": "json", "value": SCHEMA}, '{"city": "Oslo", "n": 42}'),
        ({"type": "regex", "value": "(yes|no)"}, "yes"),
    ],
)
async def test_grammars(server: TGIServer, grammar: Any, text: str) -> None:
    assert await ask(server, lambda client: client.text_generation("Well?", grammar=grammar)) == text


async def test_chat(server: TGIServer) -> None:
    said = await ask(
        server,
        lambda client: client.chat_completion(
            user("say hello"), max_tokens=9, logprobs=True, top_logprobs=2, temperature=0.0
        ),
    )
    [choice] = said.choices
    assert (said.model, choice.message.content, choice.finish_reason) == (LLAMA, "hello", "stop")
    assert [entry.token for entry in choice.logprobs.content] == ["hel", "lo", "<|eot_id|>"]
    assert [top.token for top in choice.logprobs.content[0].top_logprobs] == ["hel", "hel0"]
    assert (said.usage.prompt_tokens, said.usage.completion_tokens) == (4, 3)
    [asked] = server.asked
    assert ([(m.role, m.text) for m in asked.messages], asked.max_tokens, asked.temperature) == (
        [("user", "say hello")],
        9,
        0.0,
    )


async def test_streamed_chat(server: TGIServer) -> None:
    def question(client: InferenceClient) -> list[Any]:
        return list(
            client.chat_completion(user("say hello"), stream=True, stream_options={"include_usage": True}, stop=["lo"])
        )

    *said, usage = await ask(server, question)
    assert [event.choices[0].delta.content for event in said] == ["hel", "lo"]
    assert [event.choices[0].finish_reason for event in said] == [None, "stop_sequence"]
    assert (usage.choices, usage.usage.completion_tokens) == ([], 2)


async def test_a_schema_in_a_chat(server: TGIServer) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    said = await ask(server, lambda client: client.chat_completion(user("Where?"), response_format=wanted))
    assert json.loads(said.choices[0].message.content) == {"city": "Oslo", "n": 42}


@pytest.mark.parametrize(
    "choice", ["auto", "required", "weather", {"type": "function", "function": {"name": "weather"}}]
)
async def test_tools(server: TGIServer, choice: Any) -> None:
    said = await ask(
        server, lambda client: client.chat_completion(user("call weather"), tools=[TOOL], tool_choice=choice)
    )
    [call] = said.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("0", "weather", '{"city":"Oslo"}')
    assert said.choices[0].finish_reason == "stop"
    assert server.asked[0].tools == {"weather": TOOL["function"]["parameters"]}


@pytest.mark.parametrize(("choice", "text"), [("none", "call weather"), ("auto", "say no")])
async def test_tools_that_are_not_called(server: TGIServer, choice: Any, text: str) -> None:
    said = await ask(server, lambda client: client.chat_completion(user(text), tools=[TOOL], tool_choice=choice))
    assert said.choices[0].message.tool_calls is None
    assert said.choices[0].message.content


async def test_a_streamed_call_ends_without_a_reason(server: TGIServer) -> None:
    def question(client: InferenceClient) -> list[Any]:
        return list(client.chat_completion(user("call weather"), tools=[TOOL], stream=True))

    events = await ask(server, question)
    deltas = [event.choices[0].delta.tool_calls[0].function for event in events]
    assert [delta.name for delta in deltas if delta.name] == ["weather"]
    assert json.loads("".join(delta.arguments for delta in deltas)) == {"city": "Oslo"}
    assert {event.choices[0].finish_reason for event in events} == {None}


async def test_pictures_by_value_and_by_url(server: TGIServer) -> None:
    def seen(url: str) -> Callable[[InferenceClient], str | None]:
        content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
        return lambda client: client.chat_completion([{"role": "user", "content": content}]).choices[0].message.content

    assert await ask(server, seen("data:image/png;base64,aGVsbG8=")) == "a picture of 5 bytes"
    assert await ask(server, seen("https://x.test/a.png")) == "a picture at https://x.test/a.png"


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"max_new_tokens": 600}, "tokens + `max_new_tokens` must be <= 512. Given: 3 `inputs` tokens and 600"),
        ({"grammar": {"type": "json", "value": {"type": "object"}}}, "Grammar must have a 'properties' field"),
    ],
)
async def test_what_it_does_not_take(server: TGIServer, parameters: Any, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        await ask(server, lambda client: client.text_generation("hi", **parameters))
    assert problem in str(caught.value)
    with pytest.raises(ValidationError) as caught:  # an event of a stream that has begun
        await ask(server, lambda client: list(client.text_generation("hi", stream=True, **parameters)))
    assert problem in str(caught.value)


async def test_a_grammar_that_is_none_fails_when_it_generates(server: TGIServer) -> None:
    with pytest.raises(GenerationError, match="Request failed during generation"):
        await ask(server, lambda client: client.text_generation("hi", grammar={"type": "regex", "value": "(("}))


async def test_a_key(server: TGIServer) -> None:
    server.key = "hf_right"
    assert await ask(server, lambda client: client.text_generation("say a")) == "a"
    with pytest.raises(HfHubHTTPError, match="401"):
        await ask(server, lambda client: client.text_generation("say a"), token="hf_wrong")


async def test_overloaded(server: TGIServer) -> None:
    server.reply = server.refusal(429)
    with pytest.raises(OverloadedError, match="Model is overloaded"):
        await ask(server, lambda client: client.text_generation("hi"))


def test_the_reply_of_each_status() -> None:
    server = TGIServer()
    for status in (400, 401, 403, 404, 429, 500, 503):
        reply: Reply = server.refusal(status, "7")
        assert reply.status == status
