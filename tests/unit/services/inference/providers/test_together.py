"""What remote::together does in Together's way, over its fake."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from google.protobuf import json_format

from services.inference import texts
from services.inference.providers.together import Together, TogetherConfig
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendPermissionDenied, BackendRejected, NotServing, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted
from tests.fakes.http_server import failing
from tests.fakes.together_server import CHAT_MODEL, EMBEDDING_MODEL, UNCOUNTED_MODEL, TogetherServer


@pytest.fixture
async def server() -> AsyncGenerator[TogetherServer]:
    async with TogetherServer(key="tgp_own") as server:
        yield server


@pytest.fixture
async def provider(server: TogetherServer) -> AsyncGenerator[Together]:
    async with Together(TogetherConfig.model_validate({"url": server.root, "api_key": "tgp_own"})) as provider:
        yield provider


def chat(model: str = CHAT_MODEL, **more: object) -> pb.ChatCompletionRequest:
    message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content("say hello")))
    request = pb.ChatCompletionRequest(model_id=model, messages=[message])
    json_format.ParseDict(more, request)
    return request


def test_where_it_is() -> None:
    assert TogetherConfig().url == "https://api.together.ai"


async def test_the_path_is_the_sdks(provider: Together, server: TogetherServer) -> None:
    await provider.chat_completion(chat())
    assert server.last.path == "/v1/chat/completions"
    assert server.last.headers["user-agent"].startswith("AsyncTogether/Python 3.")


async def test_models_that_make_no_text_or_vectors_are_not_served(provider: Together, server: TogetherServer) -> None:
    kinds = ("chat", "language", "code", "moderation", "embedding", "image", "audio", "rerank", "transcribe", "video")
    server.models = list(kinds)
    server.types = {kind: kind for kind in kinds}
    assert set(await provider.list_served()) == {*kinds[:5], server.not_serverless}


async def test_a_model_that_is_not_served_to_everybody_says_so_when_it_is_called(
    provider: Together, server: TogetherServer
) -> None:
    """The list does not tell it apart."""
    name = server.not_serverless
    assert await provider.resolve(Wanted(provider_resource_id=name)) == name
    with pytest.raises(NotServing, match=f"answered 400: Unable to access non-serverless model {name}"):
        await provider.stream_chat_completion(chat(name))
    server.reply = server.documented.refusal("not_running", model=name)
    with pytest.raises(NotServing, match=f"dedicated endpoint for {name} is not running"):
        await provider.chat_completion(chat(name))


async def test_a_403_may_be_the_requests_fault(provider: Together, server: TogetherServer) -> None:
    text = "Input token count + max_tokens parameter must be less than the context length of the model being queried"
    server.reply = failing(403, {"error": {"message": text, "type": "bad_request", "param": None, "code": None}})
    with pytest.raises(BackendRejected, match="must be less than the context length"):
        await provider.chat_completion(chat())
    server.reply = failing(403, {"error": {"message": "You are not allowed", "code": None}})
    with pytest.raises(BackendPermissionDenied):
        await provider.chat_completion(chat())


async def test_a_grammar_is_refused_and_nothing_sent(provider: Together, server: TogetherServer) -> None:
    wanted = pb.ResponseFormat(grammar='root ::= "yes"')
    completion = pb.CompletionRequest(model_id=CHAT_MODEL, content=texts.content("x"), response_format=wanted)
    with pytest.raises(Unsupported, match="no grammars; ask for a JSON schema"):
        await provider.chat_completion(chat(response_format={"grammar": 'root ::= "yes"'}))
    with pytest.raises(Unsupported, match="chats only"):
        await provider.stream_completion(completion)
    assert server.requests == []


async def test_probabilities_are_asked_for_by_a_number_that_is_not_0(
    provider: Together, server: TogetherServer
) -> None:
    for top, sent in [(0, 1), (4, 4)]:
        answer = await provider.chat_completion(chat(logprobs={"top_k": top}))
        assert (server.last.body["logprobs"], len(answer.logprobs)) == (sent, 2)
        assert "top_logprobs" not in server.last.body


@pytest.mark.parametrize(("model", "counted"), [(EMBEDDING_MODEL, True), (UNCOUNTED_MODEL, False)])
async def test_some_models_embed_without_saying_what_was_used(provider: Together, model: str, counted: bool) -> None:
    request = pb.EmbeddingsRequest(model_id=model, contents=[texts.content("a cat"), texts.content("a dog")])
    answer = await provider.embeddings(request)
    assert (len(answer.embeddings), answer.usage.prompt_tokens > 0) == (2, counted)


async def test_usage_is_not_asked_for_and_comes(provider: Together, server: TogetherServer) -> None:
    *_, last = [chunk async for chunk in await provider.stream_chat_completion(chat())]
    assert "stream_options" not in server.last.body
    assert last.event.usage == pb.Usage(prompt_tokens=4, completion_tokens=2)
