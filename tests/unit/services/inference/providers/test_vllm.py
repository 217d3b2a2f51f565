"""remote::vllm: its configuration, whose key is sent, its parameter for grammars."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from services.inference import texts
from services.inference.providers import KINDS
from services.inference.providers.vllm import VLLM, VLLMConfig
from stackmesh.common.v1 import content_pb2
from stackmesh.config import ConfigError, ProviderConfig, validate
from stackmesh.errors import BackendUnauthenticated, InvalidProviderData, NotHosted
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted, open_providers
from tests.calling import calling
from tests.fakes.openai_server import OpenAIServer

OURS = "sk-server-0123456789"
THEIRS = "sk-caller-0123456789"
CHAT = pb.ChatCompletionRequest(
    model_id="fake-model",
    messages=[content_pb2.Message(user=content_pb2.UserMessage(content=texts.content("hi")))],
)


@pytest.fixture
async def server() -> AsyncGenerator[OpenAIServer]:
    async with OpenAIServer() as server:
        yield server


@pytest.fixture
async def provider(server: OpenAIServer) -> AsyncGenerator[VLLM]:
    async with VLLM(VLLMConfig(url=server.url, api_token=OURS, max_tokens=77)) as provider:  # pyright: ignore[reportArgumentType] -- pydantic makes a secret of it
        yield provider


async def key_sent(provider: VLLM, server: OpenAIServer, provider_data: str | None) -> str | None:
    with calling(provider_data):
        await provider.chat_completion(CHAT)
    return server.last.headers.get("authorization")


# Configuration


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_an_url_may_end_in_a_slash(url: str, expected: str) -> None:
    assert VLLMConfig(url=url).url == expected


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, "config.url: is required"),
        ({"url": "localhost:8000"}, "config.url: must begin with http:// or https://"),
        ({"url": "ftp://host/v1"}, "config.url: must begin with http:// or https://"),
        ({"url": "http:///v1"}, "config.url: must begin"),
        ({"url": "http://host:port/v1"}, "config.url: must begin"),
        ({"url": "http://host:99999/v1"}, "config.url: must begin"),
        ({"url": "http://user:secret@host/v1"}, "config.url: must have no user, query or fragment"),
        ({"url": "http://host/v1?key=secret"}, "config.url: must have no user, query or fragment"),
        ({"url": "http://h/v1", "api_token": " "}, "config.api_token: must be printable ASCII"),
        ({"url": "http://h/v1", "api_token": "secret\nX-Evil: 1"}, "config.api_token: must be printable ASCII"),
        ({"url": "http://h/v1", "read_timeout": 0}, "config.read_timeout: "),
        ({"url": "http://h/v1", "max_tokens": -1}, "config.max_tokens: "),
        ({"url": "http://h/v1", "max_connection": 3}, "config.max_connection: unknown key; did you mean `max_connect"),
    ],
)
def test_a_bad_configuration_says_what_to_change_and_shows_no_value(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(VLLM.Config, config, "config")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_empty_key_is_none() -> None:
    """As `${env.NAME:}` gives it."""
    assert VLLMConfig.model_validate({"url": "http://h/v1", "api_token": ""}).api_token is None


def test_the_key_is_not_shown() -> None:
    config = VLLMConfig.model_validate({"url": "http://h/v1", "api_token": OURS})
    assert OURS not in repr(config) + str(config) + config.model_dump_json()


async def test_it_opens_without_its_backend_and_from_configuration_alone() -> None:
    config = ProviderConfig(provider_id="v", provider_type="remote::vllm", config={"url": "http://127.0.0.1:1/v1"})
    async with asyncio.timeout(5), open_providers([config], KINDS, "inference") as providers:
        assert isinstance(providers["v"], VLLM)


# Whose key


@pytest.mark.parametrize(
    ("provider_data", "key"),
    [
        (None, OURS),
        ("{}", OURS),
        ('{"together_api_key": "sk-other"}', OURS),
        (json.dumps({"vllm_api_token": THEIRS}), THEIRS),
    ],
)
async def test_a_callers_key_comes_before_the_servers(
    provider: VLLM, server: OpenAIServer, provider_data: str | None, key: str
) -> None:
    assert await key_sent(provider, server, provider_data) == f"Bearer {key}"


async def test_without_a_call_the_servers_key_is_sent(provider: VLLM, server: OpenAIServer) -> None:
    assert await provider.list_served() == ["fake-model"]
    assert server.last.headers["authorization"] == f"Bearer {OURS}"


async def test_without_any_key_none_is_sent(server: OpenAIServer) -> None:
    async with VLLM(VLLMConfig(url=server.url)) as provider:
        assert await key_sent(provider, server, None) is None


async def test_callers_at_the_same_time_keep_their_own_keys(provider: VLLM, server: OpenAIServer) -> None:
    async def call(n: int) -> None:
        with calling(json.dumps({"vllm_api_token": f"sk-{n}"})):
            request = pb.ChatCompletionRequest()
            request.CopyFrom(CHAT)
            request.messages[0].user.content.items[0].text = str(n)
            await provider.chat_completion(request)

    await asyncio.gather(*(call(n) for n in range(20)))
    sent = {r.body["messages"][0]["content"]: r.headers["authorization"] for r in server.requests}
    assert sent == {str(n): f"Bearer sk-{n}" for n in range(20)}


@pytest.mark.parametrize(
    "provider_data",
    ["", "secret", "[]", '{"vllm_api_token": 7}', '{"vllm_api_token": ""}', '{"vllm_api_token": "secret\\nX: 1"}'],
)
async def test_malformed_provider_data_is_refused_and_nothing_is_sent(
    provider: VLLM, server: OpenAIServer, provider_data: str
) -> None:
    for method in (provider.chat_completion, provider.stream_chat_completion):
        with calling(provider_data), pytest.raises(InvalidProviderData) as caught:
            await method(CHAT)
        assert "secret" not in caught.value.message
    assert server.requests == []


async def test_a_callers_wrong_key_never_falls_back_to_the_servers(provider: VLLM, server: OpenAIServer) -> None:
    server.key = OURS
    with calling(json.dumps({"vllm_api_token": THEIRS})), pytest.raises(BackendUnauthenticated) as caught:
        await provider.chat_completion(CHAT)
    assert len(server.requests) == 1
    assert THEIRS not in caught.value.message


# Parameters


async def test_a_grammar_is_a_structured_output(provider: VLLM, server: OpenAIServer) -> None:
    request = pb.ChatCompletionRequest(response_format=pb.ResponseFormat(grammar='root ::= "yes"'))
    request.MergeFrom(CHAT)
    await provider.chat_completion(request)
    assert server.last.body["structured_outputs"] == {"grammar": 'root ::= "yes"'}


async def test_the_configured_max_tokens_is_sent(provider: VLLM, server: OpenAIServer) -> None:
    await provider.chat_completion(CHAT)
    assert server.last.body["max_tokens"] == 77


# Names


async def test_a_llama_model_is_found_by_all_its_names(provider: VLLM, server: OpenAIServer) -> None:
    server.models = ["meta-llama/Llama-3.1-8B-Instruct", "Llama3.2-1B", "my-own"]
    own = {
        "Llama3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
        "meta-llama/Llama-3.2-1B": "Llama3.2-1B",
        "my-own": "my-own",
    }
    assert {name: await provider.resolve(Wanted(provider_resource_id=name)) for name in own} == own
    with pytest.raises(NotHosted, match=r"'Llama3.1-70B-Instruct'; there are: .*Llama-3.1-8B-Instruct"):
        await provider.resolve(Wanted(provider_resource_id="Llama3.1-70B-Instruct"))
