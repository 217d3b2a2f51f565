"""The fake of Ollama, driven by Ollama's own client: it is taken for the real one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import ollama
import pytest

from tests.fakes.ollama_server import OllamaServer
from tests.fakes.ollama_words import MODEL, line

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
async def server() -> AsyncGenerator[OllamaServer]:
    async with OllamaServer(MODEL, "all-minilm:latest", embedders=["all-minilm:latest"]) as server:
        yield server


@pytest.fixture
async def client(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[ollama.AsyncClient]:
    monkeypatch.delenv("OLLAMA_API_KEY", raising=False)
    async with ollama.AsyncClient(server.root, trust_env=False) as client:
        yield client


def user(text: str, **more: Any) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": text, **more}]


async def test_models_are_listed(server: OllamaServer, client: ollama.AsyncClient) -> None:
    server.expire(MODEL)
    assert [model.model for model in (await client.list()).models] == [MODEL, "all-minilm:latest"]
    assert [model.model for model in (await client.ps()).models] == ["all-minilm:latest"]


async def test_a_chat(client: ollama.AsyncClient) -> None:
    answer = await client.chat(MODEL, user("say hello there"), options={"temperature": 0, "seed": 7})
    assert answer.message.content == "hello there"
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (5, 4)


async def test_a_chat_is_streamed(client: ollama.AsyncClient) -> None:
    parts = [part async for part in await client.chat(MODEL, user("say hello there"), stream=True)]
    assert [part.message.content for part in parts] == ["hel", "lo ", "the", "re", ""]
    assert [part.done for part in parts] == [False] * 4 + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 4)


async def test_a_limit_is_told(client: ollama.AsyncClient) -> None:
    answer = await client.chat(MODEL, user("say hello there"), options={"num_predict": 2})
    assert (answer.message.content, answer.done_reason) == ("hello ", "length")


async def test_a_text_is_continued(client: ollama.AsyncClient) -> None:
    whole = await client.generate(MODEL, "say once upon", raw=True)
    parts = [part async for part in await client.generate(MODEL, "say once upon", raw=True, stream=True)]
    assert whole.response == "".join(part.response or "" for part in parts) == "once upon"


@pytest.mark.parametrize("stream", [True, False])
async def test_tools_are_called_and_their_results_read(client: ollama.AsyncClient, stream: bool) -> None:
    if stream:
        *_, part, last = [p async for p in await client.chat(MODEL, user("call weather"), tools=[WEATHER], stream=True)]
        assert (last.done_reason, last.message.tool_calls) == ("stop", None)
    else:
        part = await client.chat(MODEL, user("call weather"), tools=[WEATHER])
    [call] = part.message.tool_calls or ()
    assert (call.function.name, call.function.arguments) == ("weather", {"city": "Oslo"})
    result = {"role": "tool", "content": "4 degrees", "tool_name": "weather"}
    answer = await client.chat(MODEL, [*user("call weather"), part.message, result], tools=[WEATHER])
    assert answer.message.content == "the tool says 4 degrees"


async def test_a_schema_is_followed(client: ollama.AsyncClient) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    assert (await client.chat(MODEL, user("Well?"), format=schema)).message.content == '{"n": 42}'


async def test_pictures_are_seen(client: ollama.AsyncClient) -> None:
    answer = await client.chat(MODEL, user("what is this?", images=[b"\x89PNG"]))
    assert answer.message.content == "a picture of 4 bytes"


async def test_probabilities(client: ollama.AsyncClient) -> None:
    answer = await client.chat(MODEL, user("say hello"), logprobs=True, top_logprobs=2)
    assert [token.token for token in answer.logprobs or ()] == ["hel", "lo"]
    assert [len(token.top_logprobs or ()) for token in answer.logprobs or ()] == [2, 2]


async def test_embeddings(client: ollama.AsyncClient) -> None:
    answer = await client.embed("all-minilm", ["a cat", "a dog"])
    assert [len(vector) for vector in answer.embeddings] == [8, 8]
    assert answer.prompt_eval_count == 8


async def test_models_are_loaded_and_unloaded(server: OllamaServer, client: ollama.AsyncClient) -> None:
    assert (await client.generate(MODEL, keep_alive=0)).done_reason == "unload"
    assert MODEL not in server.running
    assert (await client.generate(MODEL, keep_alive="5m")).done_reason == "load"
    assert server.running[MODEL] == "5m"


async def test_models_are_pulled(server: OllamaServer, client: ollama.AsyncClient) -> None:
    server.library = ["qwen3:0.6b"]
    server.progress = [line({"status": "pulling 7f4030", "digest": "sha256:7f4030", "total": 9, "completed": 3})]
    parts = [part async for part in await client.pull("qwen3:0.6b", stream=True)]
    assert [(part.status, part.completed) for part in parts] == [("pulling 7f4030", 3), ("success", None)]
    with pytest.raises(ollama.ResponseError, match="file does not exist"):
        [part async for part in await client.pull("nothing", stream=True)]


@pytest.mark.parametrize(
    ("status", "text"),
    [(401, "unauthorized"), (404, "not found"), (429, "usage limit"), (500, "stopped"), (503, "Loading model")],
)
async def test_errors(server: OllamaServer, client: ollama.AsyncClient, status: int, text: str) -> None:
    server.reply = server.refusal(status)
    with pytest.raises(ollama.ResponseError, match=text) as caught:
        await client.chat(MODEL, user("hello"))
    assert caught.value.status_code == status


async def test_what_it_refuses_by_itself(server: OllamaServer, client: ollama.AsyncClient) -> None:
    for call, text in (
        (client.chat("gone", user("hello")), "model 'gone' not found"),
        (client.embed("gone", "hello"), 'model "gone" not found, try pulling it first'),
        (client.chat("all-minilm", user("hello")), '"all-minilm" does not support chat'),
        (client.chat(MODEL, user("hello"), format={"type": "nonsense"}), "failed to parse grammar"),
        (client.chat(MODEL, user("hello"), options={"seed": 1.5}), "option 'seed' must be of type"),
        (client.chat(MODEL, user("hello"), keep_alive="soon"), 'invalid duration "soon"'),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            await call
        assert text in caught.value.error
    server.key = "sk-0123456789"
    with pytest.raises(ollama.ResponseError, match="unauthorized"):
        await client.ps()


async def test_an_error_in_mid_stream(server: OllamaServer, client: ollama.AsyncClient) -> None:
    server.reply = server.lines(server.said("Hel"), server.failure("broke_down"))
    parts = await client.chat(MODEL, user("hello"), stream=True)
    assert (await anext(parts)).message.content == "Hel"
    with pytest.raises(ollama.ResponseError, match="out of memory"):
        await anext(parts)
