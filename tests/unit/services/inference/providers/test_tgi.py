"""remote::tgi: its configuration, whose token is sent, which model it takes for its own, what it makes of TGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from services.inference import texts
from services.inference.providers import KINDS
from services.inference.providers.tgi import TGI, TGIConfig
from services.inference.tgi.events import Chat, Generate
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.config import ConfigError, ProviderConfig, validate
from stackmesh.errors import (
    BackendRejected,
    BackendUnauthenticated,
    BackendUnreachable,
    ContextExceeded,
    Internal,
    InvalidProviderData,
    MeshError,
    NotHosted,
    NotServing,
    RateLimited,
    Timeout,
    Unsupported,
)
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted, open_providers
from tests.calling import calling
from tests.contracts.inference_provider.subject import tool, user
from tests.fakes.http_server import CUT, STALL, Received, Reply, failing, streaming, whole
from tests.fakes.openai_model import DONE, data
from tests.fakes.tgi_server import LLAMA, TGIServer, event, token

OURS = "hf-server-0123456789"
THEIRS = "hf-caller-0123456789"
PNG = b"\x89PNG\r\n\x1a\n"
STREAMS = ("/generate_stream", "/v1/chat/completions")


def chat(text: str = "hi", *stops: str, **more: Any) -> pb.ChatCompletionRequest:
    params = pb.SamplingParams(stop=stops)
    return pb.ChatCompletionRequest(model_id=LLAMA, messages=[user(text)], sampling_params=params, **more)


def text(said: str = "hi", *stops: str, **more: Any) -> pb.CompletionRequest:
    params = pb.SamplingParams(stop=stops)
    return pb.CompletionRequest(model_id=LLAMA, content=texts.content(said), sampling_params=params, **more)


def opened(server: TGIServer, **config: Any) -> TGI:
    return TGI(TGIConfig.model_validate({"url": server.url, "read_timeout": 5, **config}))


@pytest.fixture
async def server() -> AsyncGenerator[TGIServer]:
    async with TGIServer() as server:
        yield server


@pytest.fixture
async def provider(server: TGIServer) -> AsyncGenerator[TGI]:
    async with opened(server, api_token=OURS) as provider:
        yield provider


def asked(server: TGIServer) -> list[Received]:
    """The requests for text."""
    return [request for path in STREAMS for request in server.requests if request.path == path]


async def told(provider: TGI, request: pb.ChatCompletionRequest) -> list[pb.ChatCompletionEvent]:
    async with asyncio.timeout(10), aclosing(await provider.stream_chat_completion(request)) as chunks:
        return [chunk.event async for chunk in chunks]


async def until_error(provider: TGI, request: pb.ChatCompletionRequest | pb.CompletionRequest) -> tuple[str, type]:
    """What a stream says before it fails, and with what it does."""
    said = ""
    try:
        if isinstance(request, pb.CompletionRequest):
            async for chunk in await provider.stream_completion(request):
                said += chunk.delta
        else:
            async for chunk in await provider.stream_chat_completion(request):
                said += chunk.event.text
    except MeshError as error:
        return said, type(error)
    raise AssertionError("it did not fail")


# Configuration


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "config.url: is required"),
        ({"url": "localhost:8080"}, "config.url: must begin with http:// or https://"),
        ({"url": "http://h/v1"}, "config.url: must be the root of the server: leave out the /v1"),
        ({"url": "http://h/v1/"}, "config.url: must be the root of the server: leave out the /v1"),
        ({"url": "http://user:secret@h"}, "config.url: must have no user, query or fragment"),
        ({"url": "http://h", "model": "/data/secret"}, "config.model: may hold letters"),
        ({"url": "http://h", "api_token": "secret\nX: 1"}, "config.api_token: must be printable ASCII"),
        ({"url": "http://h", "read_timeout": 0}, "config.read_timeout: "),
        ({"url": "http://h", "max_tokens": -1}, "config.max_tokens: "),
        ({"url": "http://h", "api_key": "secret"}, "config.api_key: unknown key"),
    ],
)
def test_a_bad_configuration_says_what_to_change_and_shows_no_value(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(TGI.Config, config, "config")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_token_is_not_shown() -> None:
    config = TGIConfig.model_validate({"url": "http://h/", "api_token": OURS})
    assert config.url == "http://h"
    assert OURS not in repr(config) + str(config) + config.model_dump_json()
    assert TGIConfig.model_validate({"url": "http://h", "api_token": ""}).api_token is None


async def test_it_opens_without_its_backend_and_from_configuration_alone() -> None:
    config = ProviderConfig(provider_id="t", provider_type="remote::tgi", config={"url": "http://127.0.0.1:1"})
    async with asyncio.timeout(5), open_providers([config], KINDS, "inference") as providers:
        assert isinstance(providers["t"], TGI)


async def test_the_configured_max_tokens_is_sent(server: TGIServer) -> None:
    async with opened(server, max_tokens=7) as provider:
        await provider.chat_completion(chat())
        await provider.completion(text())
    assert [asked.max_tokens for asked in server.asked] == [7, 7]


# Whose token


@pytest.mark.parametrize(
    ("provider_data", "key"),
    [(None, OURS), ("{}", OURS), ('{"vllm_api_token": "other"}', OURS), (f'{{"tgi_api_token": "{THEIRS}"}}', THEIRS)],
)
async def test_a_callers_token_comes_before_the_servers(
    provider: TGI, server: TGIServer, provider_data: str | None, key: str
) -> None:
    with calling(provider_data):
        await provider.chat_completion(chat())
        await provider.completion(text())
    assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {key}"}


async def check_tokens(provider: TGI, server: TGIServer) -> None:
    async def call(n: int) -> None:
        with calling(json.dumps({"tgi_api_token": f"hf-{n}"})):
            await provider.chat_completion(chat(str(n)))

    await asyncio.gather(*(call(n) for n in range(20)))
    sent = {r.body["messages"][0]["content"]: r.headers["authorization"] for r in asked(server)}
    assert sent == {str(n): f"Bearer hf-{n}" for n in range(20)}


async def test_callers_at_the_same_time_keep_their_own_tokens(provider: TGI, server: TGIServer) -> None:
    await check_tokens(provider, server)


class Careless(TGI):
    """The planted bug: the token of one call is kept for the next."""

    kept: str | None = None

    def _key(self) -> str | None:
        self.kept = self.kept or super()._key()
        return self.kept


async def test_the_check_sees_a_token_of_another_call(server: TGIServer) -> None:
    async with Careless(TGIConfig(url=server.url)) as provider:
        with pytest.raises(AssertionError):
            await check_tokens(provider, server)


@pytest.mark.parametrize("provider_data", ["", "secret", "[]", '{"tgi_api_token": 7}', '{"tgi_api_token": ""}'])
async def test_malformed_provider_data_is_refused_and_nothing_is_sent(
    provider: TGI, server: TGIServer, provider_data: str
) -> None:
    for call in (provider.chat_completion(chat()), provider.stream_completion(text())):
        with calling(provider_data), pytest.raises(InvalidProviderData) as caught:
            await call
        assert "secret" not in caught.value.message
    assert server.requests == []


async def test_a_callers_wrong_token_never_falls_back_to_the_servers(provider: TGI, server: TGIServer) -> None:
    server.key = OURS
    with calling(json.dumps({"tgi_api_token": THEIRS})), pytest.raises(BackendUnauthenticated) as caught:
        await provider.chat_completion(chat())
    assert len(asked(server)) == 1
    assert THEIRS not in caught.value.message


async def test_who_sends_no_token_is_told_how(server: TGIServer) -> None:
    server.key = THEIRS
    async with opened(server) as provider:
        for call in (provider.chat_completion(chat()), provider.stream_completion(text())):
            with pytest.raises(BackendUnauthenticated, match="send a token as tgi_api_token in the provider data"):
                await call
        with calling(json.dumps({"tgi_api_token": THEIRS})):
            await provider.chat_completion(chat())


# The model


async def test_a_llama_model_is_found_by_all_its_names(provider: TGI, server: TGIServer) -> None:
    assert await provider.list_served() == [LLAMA]
    for name in (LLAMA, "Llama3.1-8B-Instruct"):
        assert await provider.resolve(Wanted(provider_resource_id=name)) == LLAMA
    with pytest.raises(NotHosted) as caught:
        await provider.resolve(Wanted(provider_resource_id="Llama3.1-70B-Instruct"))
    assert caught.value.message == f"{server.host} does not serve 'Llama3.1-70B-Instruct'; there are: {LLAMA}"


async def test_a_local_path_needs_a_name(server: TGIServer) -> None:
    server.model_id = "/data/model"
    async with opened(server) as provider:
        for call in (provider.list_served(), provider.resolve(Wanted(provider_resource_id="/data/model"))):
            with pytest.raises(NotHosted, match="serves '/data/model', a local path"):
                await call
    async with opened(server, model=LLAMA) as provider:
        assert await provider.list_served() == [LLAMA]
        assert await provider.resolve(Wanted(provider_resource_id="Llama3.1-8B-Instruct")) == LLAMA
        assert texts.plain((await provider.chat_completion(chat("say a"))).completion_message.content) == "a"


async def test_a_server_with_another_model_than_configured_serves_nothing(server: TGIServer) -> None:
    async with opened(server, model="org/other") as provider:
        with pytest.raises(NotHosted, match=f"serves {LLAMA}, not org/other as"):
            await provider.list_served()


async def test_a_model_whose_server_tells_only_who_has_a_token(server: TGIServer) -> None:
    server.listing = failing(401, b"")
    async with opened(server) as provider:
        with pytest.raises(BackendUnauthenticated):
            await provider.list_served()
    async with opened(server, model=LLAMA) as provider:
        assert await provider.list_served() == [LLAMA]  # callers have tokens of their own
    async with opened(server, model=LLAMA, api_token=OURS) as provider:
        with pytest.raises(BackendUnauthenticated):
            await provider.list_served()


async def test_another_model_is_not_asked_in_its_place(provider: TGI, server: TGIServer) -> None:
    """TGI answers whatever the model is called."""
    await provider.chat_completion(chat())
    server.requests.clear()
    wrong = chat()
    wrong.model_id = "gone-model"
    with pytest.raises(NotServing, match=f"does not serve the model 'gone-model', but {LLAMA}"):
        await provider.stream_chat_completion(wrong)
    assert asked(server) == []


async def test_a_server_that_got_another_model_is_noticed(server: TGIServer) -> None:
    async with opened(server) as provider:
        await provider.list_served()
        server.model_id = "org/other"
        provider._listing._last = provider._listing._last.__class__(0.0, 0.0, None, ())  # two seconds later
        assert await provider.list_served() == ["org/other"]
        with pytest.raises(NotServing):
            await provider.completion(text())
    assert asked(server) == []


async def test_a_call_does_not_ask_for_the_model_again(provider: TGI, server: TGIServer) -> None:
    for _ in range(5):
        await provider.chat_completion(chat())
        await provider.completion(text())
    assert len(server.asked) == 10
    assert len([request for request in server.requests if request.path == "/info"]) == 1


@pytest.mark.parametrize("reply", [whole("text"), whole({}), Reply([b"<html>"])])
async def test_what_is_no_tgi_serves_nothing(server: TGIServer, reply: Reply) -> None:
    server.listing = reply
    async with opened(server) as provider:
        with pytest.raises(Internal, match=server.host):
            await provider.list_served()


async def test_nobody_there_is_gone() -> None:
    async with TGI(TGIConfig(url="http://127.0.0.1:1")) as provider:
        for call in (provider.list_served(), provider.chat_completion(chat())):
            with pytest.raises(BackendUnreachable) as caught:
                await call
            assert caught.value.gone


# Pictures, embeddings


async def test_a_model_of_text_is_shown_no_picture(provider: TGI, server: TGIServer) -> None:
    """TGI would read the URL to it."""
    seeing = pb.ChatCompletionRequest(model_id=LLAMA, messages=[user("what?", PNG)])
    answer = await provider.chat_completion(seeing)
    assert texts.plain(answer.completion_message.content) == "a picture of 8 bytes"
    server.pipeline_tag = "text-generation"
    async with opened(server) as blind:
        with pytest.raises(Unsupported, match="image"):
            await blind.stream_chat_completion(seeing)
        await blind.chat_completion(chat())
    assert len(asked(server)) == 2


async def test_a_url_with_brackets(provider: TGI, server: TGIServer) -> None:
    request = pb.ChatCompletionRequest(model_id=LLAMA, messages=[user("what?", url="https://x.test/a_(b).png")])
    answer = await provider.chat_completion(request)
    assert texts.plain(answer.completion_message.content) == "a picture at https://x.test/a_(b%29.png"


async def test_it_embeds_nothing(provider: TGI, server: TGIServer) -> None:
    with pytest.raises(Unsupported, match="text-embeddings-inference"):
        await provider.embeddings(pb.EmbeddingsRequest(model_id=LLAMA, contents=[texts.content("a")]))
    assert server.requests == []


# Stop sequences


STOPPED = [
    ("lo ", "hel", 2),  # TGI stops
    ("lo w", "hel", 3),  # it goes on
    ("nowhere", "hello world and so on", 8),
]
"""A stop sequence, what precedes it in the text, and the tokens that it took."""


async def check_stops(provider: TGI, server: TGIServer, stop: str, said: str, used: int) -> None:
    question = "say hello world and so on"
    usage = pb.Usage(prompt_tokens=server.model.count(question), completion_tokens=used)
    completion = await provider.completion(text(question, stop))
    assert (completion.content, completion.usage) == (said, usage)
    answer = await provider.chat_completion(chat(question, stop))
    assert (texts.plain(answer.completion_message.content), answer.usage) == (said, usage)
    assert completion.stop_reason == answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_TURN


@pytest.mark.parametrize(("stop", "said", "used"), STOPPED)
async def test_no_part_of_a_stop_sequence_is_sent(
    provider: TGI, server: TGIServer, stop: str, said: str, used: int
) -> None:
    await check_stops(provider, server, stop, said, used)


class Trusting(TGI):
    """The planted bug: TGI's text is taken as it is."""

    async def _stream(self, path: str, body: Any, tongue: Generate | Chat, fold: Any) -> Any:
        trusting = Chat(()) if isinstance(tongue, Chat) else Generate((), logprobs=False)
        return await super()._stream(path, body, trusting, fold)


@pytest.mark.parametrize(("stop", "said", "used"), STOPPED[:2])
async def test_the_check_sees_a_stop_sequence_that_is_sent(server: TGIServer, stop: str, said: str, used: int) -> None:
    async with Trusting(TGIConfig(url=server.url)) as provider:
        with pytest.raises(AssertionError):
            await check_stops(provider, server, stop, said, used)


@pytest.mark.parametrize("path", STREAMS)
async def test_a_server_that_goes_on_after_a_stop_sequence_is_left_at_once(
    provider: TGI, server: TGIServer, path: str
) -> None:
    await provider.list_served()
    said = token if path == STREAMS[0] else lambda piece: event({"content": piece})
    counted = {"/tokenize": [{"id": 1}] * 9, "/chat_tokenize": {"tokenize_response": [{"id": 1}] * 9}}
    server.reply = streaming(said("once ST"), said("OP it"), STALL)

    def answer(request: Received) -> Reply:
        return whole(counted[request.path]) if request.path in counted else TGIServer.answer(server, request)

    server.answer = answer
    async with asyncio.timeout(5):
        if path == STREAMS[0]:
            completion = await provider.completion(text("hi", "STOP"))
            found = completion.content, completion.stop_reason, completion.usage
        else:
            chatted = await provider.chat_completion(chat("hi", "STOP"))
            message = chatted.completion_message
            found = texts.plain(message.content), message.stop_reason, chatted.usage
        await server.requests[1].disconnected.wait()
    assert found == (
        "once ",
        StopReason.STOP_REASON_END_OF_TURN,
        pb.Usage(prompt_tokens=9, completion_tokens=2),
    )
    assert [request.path for request in server.requests][1:] == [path, dict(zip(STREAMS, counted, strict=True))[path]]


async def test_before_3_2_words_instead_of_a_call_are_counted_here(provider: TGI, server: TGIServer) -> None:
    """Their stream ends without usage."""
    server.reply = streaming(event({"content": "No"}), event({"content": " tool"}), DONE)
    answer = await provider.chat_completion(chat("one two three", tools=[tool("weather")]))
    assert texts.plain(answer.completion_message.content) == "No tool"
    assert answer.usage == pb.Usage(prompt_tokens=server.model.count("one two three"), completion_tokens=2)


async def test_a_prompt_that_cannot_be_counted_spoils_no_answer(provider: TGI, server: TGIServer) -> None:
    answer = server.answer
    server.answer = lambda request: server.refusal(500) if "tokenize" in request.path else answer(request)
    completion = await provider.completion(text("say hello world", "lo w"))
    assert (completion.content, completion.usage) == ("hel", pb.Usage(completion_tokens=3))


async def test_leaving_a_stream_with_stop_sequences_unread_closes_it(provider: TGI, server: TGIServer) -> None:
    server.reply = streaming(event({"content": "half"}), STALL)
    await (await provider.stream_chat_completion(chat("hi", "STOP"))).aclose()
    async with asyncio.timeout(0.4):
        await server.last.disconnected.wait()


# Whole answers


async def test_a_text_that_ends_within_a_character_is_not_empty(provider: TGI, server: TGIServer) -> None:
    """TGI's own whole answer would be."""
    last = {"finish_reason": "length", "generated_tokens": 2, "input_length": 3, "seed": None}
    server.reply = streaming(token("Oslo "), token("", details=last, generated_text=""))
    completion = await provider.completion(text())
    assert (completion.content, completion.usage.completion_tokens) == ("Oslo ", 2)


async def test_calls_and_words_of_a_whole_answer(provider: TGI, server: TGIServer) -> None:
    answer = await provider.chat_completion(chat("call clock", tools=[tool("weather", city="string"), tool("clock")]))
    [call] = answer.completion_message.tool_calls
    assert (call.tool_name.custom, dict(call.arguments)) == ("clock", {})
    assert not answer.completion_message.HasField("content")
    assert answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    again = await provider.chat_completion(chat("call clock", tools=[tool("clock")]))
    assert again.completion_message.tool_calls[0].call_id != call.call_id  # TGI says "0" of all


async def test_a_call_that_is_none_is_told_as_text(provider: TGI, server: TGIServer) -> None:
    call = {"index": 0, "id": "0", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Os'}}
    server.reply = streaming(event({"tool_calls": [call]}, finish_reason="length"), DONE)
    message = (await provider.chat_completion(chat(tools=[tool("weather")]))).completion_message
    assert (texts.plain(message.content), list(message.tool_calls)) == ('{"city": "Os', [])
    assert message.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS


# What goes wrong


@pytest.mark.parametrize(
    ("kind", "said", "error"),
    [
        ("validation", "Input validation error: `inputs` must have less than 511 tokens. Given: 600", ContextExceeded),
        ("validation", "Input validation error: `top_k` must be strictly positive", BackendRejected),
        ("overloaded", "Model is overloaded", RateLimited),
        ("generation", "Request failed during generation: Server error", Internal),
    ],
)
async def test_errors_inside_a_stream(
    provider: TGI, server: TGIServer, kind: str, said: str, error: type[MeshError]
) -> None:
    failed = data({"error": said, "error_type": kind})
    for pieces, before in (([failed], ""), ([token("half"), failed], "half"), ([token("half") + failed], "half")):
        server.reply = streaming(*pieces)
        assert await until_error(provider, text()) == (before, error)
    failed = data({"error": {"message": said, "http_status_code": 422}})
    half = event({"content": "half"})
    for pieces, before in (([failed, DONE], ""), ([half, failed, DONE], "half"), ([half + failed + DONE], "half")):
        server.reply = streaming(*pieces)
        assert await until_error(provider, chat()) == (before, error)


async def test_text_that_is_none_is_internal(provider: TGI, server: TGIServer) -> None:
    server.reply = streaming(event({"content": 7}), DONE)
    with pytest.raises(Internal, match=server.host):
        await provider.stream_chat_completion(chat())
    server.reply = streaming(token(7))
    with pytest.raises(Internal, match=server.host):
        await provider.stream_completion(text())


async def test_a_model_that_hangs_behind_a_living_router_is_silent(server: TGIServer) -> None:
    async with opened(server, read_timeout=0.2) as provider:
        await provider.list_served()
        server.reply = streaming(event({"content": "half"}), *([b":\n\n", 0.05] * 40))
        with pytest.raises(Timeout, match=r"was silent for 0\.2 s"):
            await told(provider, chat())
        async with asyncio.timeout(5):
            await server.last.disconnected.wait()


async def test_a_stream_byte_by_byte(provider: TGI, server: TGIServer) -> None:
    stream = event({"content": "naïve 🚀 ST"}) + event({"content": "OP"}, finish_reason="stop_sequence") + DONE
    server.reply = streaming(*(stream[at : at + 1] for at in range(len(stream))))
    *said, complete = await told(provider, chat("hi", "STOP"))
    assert "".join(event.text for event in said) == "naïve 🚀 "
    assert complete.stop_reason == StopReason.STOP_REASON_END_OF_TURN


async def test_one_connection_serves_one_call_after_the_other(provider: TGI, server: TGIServer) -> None:
    for _ in range(3):
        await provider.chat_completion(chat("say a"))
        await provider.completion(text("say a"))
        server.reply = server.refusal(429)
        with pytest.raises(RateLimited):
            await provider.completion(text())
        server.reply = server.speak
    assert server.connections == 1


async def test_after_a_death_the_next_call_is_fine(provider: TGI, server: TGIServer) -> None:
    server.reply = streaming(token("half"), CUT)
    with pytest.raises(BackendUnreachable):
        await provider.completion(text())
    server.reply = server.speak
    assert (await provider.completion(text("say well"))).content == "well"
