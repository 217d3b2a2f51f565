"""What remote::fireworks does in Fireworks' way, over its fake."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from google.protobuf import json_format

from services.inference import tables, texts
from services.inference.providers.fireworks import Fireworks, FireworksConfig
from stackmesh.errors import BackendRejected, Internal, MeshError, NotServing, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted
from tests.fakes.fireworks_server import CHAT_MODEL, EMBEDDING_MODEL, FireworksServer
from tests.fakes.http_server import Reply, failing, whole

IMAGES = [{"image": {"uri": f"https://example.com/{n}.png"}} for n in range(31)]


@pytest.fixture
async def server() -> AsyncGenerator[FireworksServer]:
    async with FireworksServer(key="fw_own") as server:
        yield server


@pytest.fixture
async def provider(server: FireworksServer) -> AsyncGenerator[Fireworks]:
    async with Fireworks(FireworksConfig.model_validate({"url": server.root, "api_key": "fw_own"})) as provider:
        yield provider


def chat(items: object = None, **more: object) -> pb.ChatCompletionRequest:
    request = pb.ChatCompletionRequest(model_id=CHAT_MODEL)
    message = {"user": {"content": {"items": items or [{"text": "say hello"}]}}}
    json_format.ParseDict({"messages": [message], **more}, request)
    return request


def test_where_it_is() -> None:
    assert FireworksConfig().url == "https://api.fireworks.ai"


async def test_the_path_is_the_sdks(provider: Fireworks, server: FireworksServer) -> None:
    await provider.chat_completion(chat())
    assert server.last.path == "/inference/v1/chat/completions"
    assert server.last.headers["user-agent"].startswith("AsyncFireworks/Python 1.")


@pytest.mark.parametrize("lists", [True, False])
async def test_a_short_name_is_the_full_one(provider: Fireworks, server: FireworksServer, lists: bool) -> None:
    server.lists = lists
    assert await provider.resolve(Wanted(provider_resource_id="fireworks/llama-v3p1-8b-instruct")) == CHAT_MODEL


async def test_an_account_without_a_list_has_the_table_and_what_was_registered(
    provider: Fireworks, server: FireworksServer
) -> None:
    server.lists = False
    table = sorted(tables.provider("fireworks").ids)
    assert sorted(await provider.list_served()) == table
    new = await provider.resolve(Wanted(provider_resource_id="accounts/me/models/new"))
    await provider.load(Wanted(provider_resource_id=new))
    assert sorted(await provider.list_served()) == sorted([*table, "accounts/me/models/new"])


@pytest.mark.parametrize(
    ("listing", "problem"),
    [(failing(503, {}), "answered 503"), (whole([]), "form of its API"), (failing(200, b"<"), "not JSON")],
)
async def test_a_list_that_fails_in_another_way_is_no_reason_to_believe_the_table(
    provider: Fireworks, server: FireworksServer, listing: Reply, problem: str
) -> None:
    server.listing = listing
    with pytest.raises(MeshError, match=problem):
        await provider.list_served()


async def test_a_call_that_fails_is_the_callers_to_know(provider: Fireworks, server: FireworksServer) -> None:
    server.reply = server.refusal(500)
    with pytest.raises(Internal, match="answered 500: Internal Server Error"):
        await provider.chat_completion(chat())
    server.reply = server.refusal(412)
    with pytest.raises(NotServing, match="answered 412"):
        await provider.chat_completion(chat())


async def test_an_embedding_model_that_is_not_listed_can_be_configured(server: FireworksServer) -> None:
    config = {"url": server.root, "api_key": "fw_own", "models": [EMBEDDING_MODEL]}
    request = pb.EmbeddingsRequest(model_id=EMBEDDING_MODEL, contents=[texts.content("a cat")])
    async with Fireworks(FireworksConfig.model_validate(config)) as provider:
        assert set(await provider.list_served()) == {CHAT_MODEL, EMBEDDING_MODEL}
        assert (await provider.embeddings(request)).usage.prompt_tokens


async def test_a_grammar_is_a_response_format(provider: Fireworks, server: FireworksServer) -> None:
    wanted = {"grammar": 'root ::= "yes"'}
    await provider.chat_completion(chat(response_format=wanted))
    assert server.last.body["response_format"] == {"type": "grammar", "grammar": 'root ::= "yes"'}


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (chat(sampling_params={"stop": list("abcde")}), "at most 4 stop sequences, these are 5"),
        (chat(logprobs={"top_k": 6}), "at most 5 of the likeliest tokens .* these are 6"),
        (chat(IMAGES), "at most 30 images, these are 31"),
    ],
)
async def test_its_limits_are_named_and_nothing_sent(
    provider: Fireworks, server: FireworksServer, request_: pb.ChatCompletionRequest, problem: str
) -> None:
    with pytest.raises(Unsupported, match=problem):
        await provider.chat_completion(request_)
    assert server.requests == []


@pytest.mark.parametrize(
    "request_",
    [chat(sampling_params={"stop": list("abcd")}), chat(logprobs={"top_k": 5}), chat([{"text": "x"}, *IMAGES[:30]])],
)
async def test_what_is_within_them_is_sent(provider: Fireworks, request_: pb.ChatCompletionRequest) -> None:
    await provider.chat_completion(request_)


async def test_a_long_answer_has_to_be_streamed(provider: Fireworks) -> None:
    long = chat(sampling_params={"max_tokens": 5000})
    with pytest.raises(BackendRejected, match="must have stream=true"):
        await provider.chat_completion(long)
    assert [chunk async for chunk in await provider.stream_chat_completion(long)]


async def test_usage_is_not_asked_for_and_comes(provider: Fireworks, server: FireworksServer) -> None:
    *_, last = [chunk async for chunk in await provider.stream_chat_completion(chat())]
    assert "stream_options" not in server.last.body
    assert last.event.usage == pb.Usage(prompt_tokens=4, completion_tokens=2)
