"""remote::ollama over a real socket: its configuration, whose key is sent, answers, errors, and the next call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from services.inference import texts
from services.inference.providers import KINDS
from services.inference.providers.ollama import Ollama, OllamaConfig
from stackmesh import errors
from stackmesh.common.v1 import content_pb2
from stackmesh.config import ConfigError, ProviderConfig, validate
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import open_providers
from tests.calling import calling
from tests.fakes.http_server import CUT, HANG_UP, STALL, Piece, Reply, whole
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.ollama_words import DONE, MODEL, USED, line, said

OURS = "sk-server-0123456789"
THEIRS = "sk-caller-0123456789"
CHAT = pb.ChatCompletionRequest(
    model_id=MODEL,
    messages=[content_pb2.Message(user=content_pb2.UserMessage(content=texts.content("say hello")))],
)
TEXT = pb.CompletionRequest(model_id=MODEL, content=texts.content("say hello"))
Type = pb.ChatCompletionEventType


@pytest.fixture
async def server() -> AsyncGenerator[OllamaServer]:
    async with OllamaServer() as server:
        yield server


@pytest.fixture
async def provider(server: OllamaServer) -> AsyncGenerator[Ollama]:
    config = OllamaConfig.model_validate({"url": server.url, "api_key": OURS, "read_timeout": 5, "max_connections": 4})
    async with Ollama(config) as provider:
        yield provider


async def told(provider: Ollama) -> list[pb.ChatCompletionEvent]:
    async with asyncio.timeout(10), aclosing(await provider.stream_chat_completion(CHAT)) as chunks:
        return [chunk.event async for chunk in chunks]


# Configuration


def test_it_needs_none() -> None:
    config = validate(Ollama.Config, {}, "config")
    assert isinstance(config, OllamaConfig)
    assert config.url == "http://localhost:11434"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"url": "localhost:11434"}, "config.url: must begin with http:// or https://"),
        ({"url": "http://h:11434/v1"}, "config.url: must be the server's root, without /api or /v1"),
        ({"url": "http://h:11434/api/"}, "config.url: must be the server's root, without /api or /v1"),
        ({"url": "http://user:secret@h"}, "config.url: must have no user, query or fragment"),
        ({"api_key": "secret\nX-Evil: 1"}, "config.api_key: must be printable ASCII"),
        ({"keep_alive": "soon"}, 'config.keep_alive: must be a duration such as "5m"'),
        ({"keep_alive": 0}, "config.keep_alive: must be at least a second"),
        ({"keep_alive": None, "num_ctx": 0}, "config.num_ctx: "),
        ({"load_timeout": 0}, "config.load_timeout: "),
        ({"loads": True}, "config.loads: unknown key; did you mean `load`"),
    ],
)
def test_a_bad_configuration_says_what_to_change_and_shows_no_value(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Ollama.Config, config, "config")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_key_is_not_shown() -> None:
    config = OllamaConfig.model_validate({"api_key": OURS})
    assert OURS not in repr(config) + str(config) + config.model_dump_json()
    assert OllamaConfig.model_validate({"api_key": ""}).api_key is None


async def test_it_opens_without_its_backend_and_from_configuration_alone() -> None:
    config = ProviderConfig(provider_id="o", provider_type="remote::ollama", config={"url": "http://127.0.0.1:1"})
    async with asyncio.timeout(5), open_providers([config], KINDS, "inference") as providers:
        assert isinstance(providers["o"], Ollama)
        with pytest.raises(errors.BackendUnreachable) as caught:
            await providers["o"].list_served()
        assert caught.value.gone


async def test_what_is_configured_goes_with_each_request(server: OllamaServer) -> None:
    config = OllamaConfig(url=server.url, keep_alive="10m", num_ctx=8192, max_tokens=7)
    async with Ollama(config) as provider:
        await provider.chat_completion(CHAT)
        await provider.completion(TEXT)
        await told(provider)
    for request in server.requests:
        assert request.body["keep_alive"] == "10m"
        assert request.body["options"] == {"num_ctx": 8192, "num_predict": 7}
    assert [request.body["stream"] for request in server.requests] == [False, False, True]


# Whose key


@pytest.mark.parametrize(
    ("provider_data", "key"),
    [
        (None, OURS),
        ("{}", OURS),
        ('{"together_api_key": "sk-other"}', OURS),
        (json.dumps({"ollama_api_key": THEIRS}), THEIRS),
    ],
)
async def test_a_callers_key_comes_before_the_servers(
    provider: Ollama, server: OllamaServer, provider_data: str | None, key: str
) -> None:
    with calling(provider_data):
        await provider.chat_completion(CHAT)
        await provider.completion(TEXT)
        await told(provider)
        await provider.embeddings(pb.EmbeddingsRequest(model_id=MODEL, contents=[texts.content("a")]))
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {key}"}


async def test_without_any_key_none_is_sent_and_a_server_that_wants_one_says_how(server: OllamaServer) -> None:
    async with Ollama(OllamaConfig(url=server.url)) as provider:
        await provider.chat_completion(CHAT)
        assert "authorization" not in server.last.headers
        server.key = OURS
        for call in (provider.chat_completion(CHAT), provider.stream_chat_completion(CHAT), provider.list_served()):
            with pytest.raises(errors.BackendUnauthenticated, match="ollama_api_key in the provider data"):
                await call


async def test_a_callers_wrong_key_never_falls_back_to_the_servers(provider: Ollama, server: OllamaServer) -> None:
    server.key = OURS
    with calling(json.dumps({"ollama_api_key": THEIRS})), pytest.raises(errors.BackendUnauthenticated) as caught:
        await provider.chat_completion(CHAT)
    assert len(server.requests) == 1
    assert THEIRS not in caught.value.message


@pytest.mark.parametrize(
    "provider_data",
    ["", "secret", "[]", '{"ollama_api_key": 7}', '{"ollama_api_key": ""}', '{"ollama_api_key": "secret\\nX: 1"}'],
)
async def test_malformed_provider_data_is_refused_and_nothing_is_sent(
    provider: Ollama, server: OllamaServer, provider_data: str
) -> None:
    for method in (provider.chat_completion, provider.stream_chat_completion):
        with calling(provider_data), pytest.raises(errors.InvalidProviderData) as caught:
            await method(CHAT)
        assert "secret" not in caught.value.message
    assert server.requests == []


async def check_keys_stay_apart(provider: Ollama, server: OllamaServer) -> None:
    """Callers at the same time, more of them than connections, some of whom are turned away or give up."""

    async def call(n: int) -> None:
        with calling(json.dumps({"ollama_api_key": f"sk-{n}"}) if n % 4 else None):
            request = pb.ChatCompletionRequest()
            request.CopyFrom(CHAT)
            request.messages[0].user.content.items[0].text = f"say {n}"
            async with asyncio.timeout(0.05 if n % 7 == 1 else 10):
                if n % 2:
                    await provider.chat_completion(request)
                else:
                    async with aclosing(await provider.stream_chat_completion(request)) as chunks:
                        [chunk async for chunk in chunks]

    await asyncio.gather(*(call(n) for n in range(60)), return_exceptions=True)
    sent = {int(r.body["messages"][0]["content"][4:]): r.headers["authorization"] for r in server.requests}
    assert len(sent) > 20
    assert sent == {n: f"Bearer sk-{n}" if n % 4 else f"Bearer {OURS}" for n in sent}


async def test_callers_at_the_same_time_keep_their_own_keys(provider: Ollama, server: OllamaServer) -> None:
    await check_keys_stay_apart(provider, server)


class Shared(Ollama):
    """The bug: the key of a call is kept where another call finds it."""

    _seen: str | None = OURS

    def key(self) -> str | None:
        before, self._seen = self._seen, super().key()
        return before


async def test_the_check_notices_keys_that_are_mixed_up(server: OllamaServer) -> None:
    config = OllamaConfig.model_validate({"url": server.url, "api_key": OURS, "max_connections": 4})
    async with Shared(config) as provider:
        with pytest.raises(AssertionError):
            await check_keys_stay_apart(provider, server)


# What is said


async def test_a_token_is_sent_as_it_comes(provider: Ollama, server: OllamaServer) -> None:
    words = ("Hello", " there", "!")
    gates = [asyncio.Event() for _ in words]
    pieces = [piece for gate, word in zip(gates, words, strict=True) for piece in (said(word), gate)]
    server.reply = server.lines(*pieces, DONE)
    async with asyncio.timeout(10), aclosing(await provider.stream_chat_completion(CHAT)) as chunks:
        assert (await anext(chunks)).event.event_type == Type.CHAT_COMPLETION_EVENT_TYPE_START
        for gate, word in zip(gates, words, strict=True):
            assert (await anext(chunks)).event.text == word  # the server says no more until it has been seen
            gate.set()
        assert (await anext(chunks)).event.usage == pb.Usage(prompt_tokens=11, completion_tokens=3)


async def test_what_comes_in_one_segment_is_one_chunk(provider: Ollama, server: OllamaServer) -> None:
    server.reply = server.lines(b"".join(said(str(n)) for n in range(50)) + DONE)
    _, progress, _ = await told(provider)
    assert progress.text == "".join(str(n) for n in range(50))


async def test_the_end_is_not_waited_for(provider: Ollama, server: OllamaServer) -> None:
    """A proxy may keep the connection open after the last line."""
    server.reply = server.lines(said("all") + DONE, STALL)
    *_, complete = await told(provider)
    assert complete.event_type == Type.CHAT_COMPLETION_EVENT_TYPE_COMPLETE


async def test_a_connection_is_used_again(provider: Ollama, server: OllamaServer) -> None:
    for _ in range(3):
        await told(provider)
        await provider.chat_completion(CHAT)
    assert server.connections == 1


# What goes wrong


async def test_a_full_queue_of_the_servers_own_comes_with_a_delay(provider: Ollama, server: OllamaServer) -> None:
    server.reply = server.documented.refusal("busy")
    for method in (provider.chat_completion, provider.stream_chat_completion):
        with pytest.raises(errors.QueueFull) as caught:
            await method(CHAT)
        assert caught.value.retry_after == 1.0


async def test_a_model_that_calls_no_tools_says_so(provider: Ollama, server: OllamaServer) -> None:
    server.toolless.add(MODEL)
    request = pb.ChatCompletionRequest()
    request.CopyFrom(CHAT)
    request.tools.add().tool_name.custom = "weather"
    for method in (provider.chat_completion, provider.stream_chat_completion):
        with pytest.raises(errors.Unsupported, match="does not support tools"):
            await method(request)


async def test_an_error_in_mid_stream_follows_what_was_said(provider: Ollama, server: OllamaServer) -> None:
    failure = line({"error": f"CUDA error with {OURS}"})
    server.reply = server.lines(said("half ") + said("an answer") + failure)
    chunks = await provider.stream_chat_completion(CHAT)
    assert [(await anext(chunks)).event.text for _ in range(2)] == ["", "half an answer"]
    with pytest.raises(errors.Internal, match=r"500: CUDA error with \[redacted\]$"):
        await anext(chunks)
    server.reply = server.lines(failure)
    with pytest.raises(errors.Internal, match=r"500: CUDA error with \[redacted\]$"):
        await provider.stream_chat_completion(CHAT)
    server.reply = server.speak
    assert (await told(provider))[1].text


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [said("half")],
        [said("half"), CUT],
        [said("half"), HANG_UP],
        [said("half") + DONE[:-20]],
        [said("half") + said(done=True, done_reason="load")],
    ],
)
async def test_a_stream_that_ends_early_is_never_complete(
    provider: Ollama, server: OllamaServer, pieces: list[Piece]
) -> None:
    server.reply = server.lines(*pieces)
    with pytest.raises(errors.BackendUnreachable, match=server.host):
        await told(provider)
    server.reply = server.speak
    assert (await told(provider))[1].text


@pytest.mark.parametrize(
    "reply",
    [
        whole("text"),
        whole({"done": True}),
        whole({"message": {"content": "x"}}),
        whole({"message": {"content": 7}, "done": True}),
        whole({"message": {"tool_calls": [{"no": "function"}]}, "done": True}),
        Reply([b"<html>"]),
    ],
)
async def test_an_answer_that_makes_no_sense_is_internal(provider: Ollama, server: OllamaServer, reply: Reply) -> None:
    server.reply = reply
    with pytest.raises(errors.Internal, match=server.host):
        await provider.chat_completion(CHAT)
    server.reply = server.speak
    await provider.chat_completion(CHAT)


async def test_an_answer_that_is_none_is_no_answer(provider: Ollama, server: OllamaServer) -> None:
    server.reply = whole({"message": {"content": ""}, "done": True, "done_reason": "load"})
    with pytest.raises(errors.BackendUnreachable, match="has answered nothing"):
        await provider.chat_completion(CHAT)
    server.reply = whole({"response": "half", "done": False, **USED})
    with pytest.raises(errors.BackendUnreachable, match="ended its answer early"):
        await provider.completion(TEXT)


@pytest.mark.parametrize("vectors", [[], [[1.0], [2.0]], None, ["text"]])
async def test_embeddings_that_do_not_fit_the_texts(provider: Ollama, server: OllamaServer, vectors: Any) -> None:
    server.reply = whole({"embeddings": vectors})
    with pytest.raises(errors.Internal):
        await provider.embeddings(pb.EmbeddingsRequest(model_id=MODEL, contents=[texts.content("a")]))


@pytest.mark.parametrize("listing", [whole([]), whole({"models": None}), whole({"models": [{"no": "name"}]}), whole(7)])
async def test_a_listing_of_another_form_is_internal(provider: Ollama, server: OllamaServer, listing: Reply) -> None:
    server.listing = listing
    with pytest.raises(errors.Internal):
        await provider.list_served()


async def test_a_server_that_is_no_ollama_says_what_to_check() -> None:
    async with OllamaServer() as server, Ollama(OllamaConfig(url=f"{server.url}/ollama")) as provider:
        with pytest.raises(errors.Unsupported, match="its url is wrong"):
            await provider.list_served()
