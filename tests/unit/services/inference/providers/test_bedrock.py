"""remote::bedrock: its configuration, whose credentials sign a call, what is served, what its models cannot do."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

from services.inference import texts
from services.inference.bedrock.clients import Clients
from services.inference.bedrock.errors import NoCredentials
from services.inference.providers import KINDS
from services.inference.providers.bedrock import Bedrock, BedrockConfig
from stackmesh import calls
from stackmesh.common.v1 import content_pb2
from stackmesh.config import ConfigError, ProviderConfig, validate
from stackmesh.errors import (
    BackendUnauthenticated,
    BackendUnreachable,
    InvalidProviderData,
    MeshError,
    NotHosted,
    Unsupported,
)
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted, open_providers
from tests.contracts.inference_provider.subject import tool, user
from tests.fakes.bedrock_models import CLAUDE, COHERE, LLAMA, LLAMA_32, TITAN
from tests.fakes.bedrock_server import OWN, Account, BedrockServer, without_credentials
from tests.fakes.http_server import HANG_UP, STALL, Received, Reply
from tests.waiting import until

PATIENCE = 20.0
PROFILE = f"us.{CLAUDE}"
[(KEY_ID, OWNER)] = OWN.items()
CALLERS = {
    "AKIAALICE0000000000A": Account("alice-secret-canary"),
    "AKIABOB000000000000B": Account("bob-secret-canary"),
    "ASIACAROL0000000000C": Account("carol-secret-canary", token="carol-token-canary"),
}
CHAT = pb.ChatCompletionRequest(model_id=PROFILE, messages=[user("say well")])
TEXT = pb.CompletionRequest(model_id=LLAMA, content=texts.content("say well"))


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_credentials(monkeypatch, tmp_path)


@pytest.fixture
async def server() -> AsyncGenerator[BedrockServer]:
    async with BedrockServer() as server:
        yield server


def config(server: BedrockServer, *, own: bool = True, **more: Any) -> BedrockConfig:
    keys = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": OWNER.secret} if own else {}
    urls = {"endpoint_url": server.root, "control_endpoint_url": server.root}
    return BedrockConfig.model_validate({"region_name": "us-east-1", "read_timeout": 10, **urls, **keys, **more})


@asynccontextmanager
async def opened(server: BedrockServer, **more: Any) -> AsyncGenerator[Bedrock]:
    async with Bedrock(config(server, **more)) as provider:
        yield provider


@pytest.fixture
async def provider(server: BedrockServer) -> AsyncGenerator[Bedrock]:
    async with opened(server) as provider:
        yield provider


@contextmanager
def calling(provider_data: Mapping[str, Any] | str | None) -> Generator[None]:
    raw = provider_data if isinstance(provider_data, str | None) else json.dumps(provider_data)
    token = calls.enter(calls.Call("bedrock", PROFILE, "m", "r1", "", raw))
    try:
        yield
    finally:
        calls.leave(token)


def data(key_id: str, **more: str) -> dict[str, str]:
    account = CALLERS[key_id]
    token = {"aws_session_token": account.token} if account.token else {}
    return {"aws_access_key_id": key_id, "aws_secret_access_key": account.secret, **token, **more}


def wanted(name: str) -> Wanted:
    return Wanted(provider_resource_id=name)


# Configuration


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"region_name": "evil.com/#"}, "config.region_name: must be the name of an AWS region"),
        ({"aws_access_key_id": "a"}, "belong together"),
        ({"aws_secret_access_key": "hunter2"}, "belong together"),
        ({"aws_session_token": "hunter2"}, "belong together"),
        ({"profile_name": "p", "aws_access_key_id": "a", "aws_secret_access_key": "hunter2"}, "two credentials"),
        ({"aws_access_key_id": "a", "aws_secret_access_key": "hunter2\nX-Evil: 1"}, "must be printable ASCII"),
        ({"endpoint_url": "localhost"}, "must begin with http"),
        ({"max_connections": 0}, "config.max_connections"),
        ({"retry_mode": "often"}, "config.retry_mode"),
        ({"region": "us-east-1"}, "config.region: unknown key; did you mean `region_name`?"),
    ],
)
def test_a_bad_configuration_says_what_to_change_and_shows_no_value(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Bedrock.Config, given, "config")
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_what_is_empty_is_absent() -> None:
    """As `${env.NAME:}` gives it."""
    given = dict.fromkeys(("region_name", "profile_name", "aws_access_key_id", "aws_secret_access_key"), "")
    assert BedrockConfig.model_validate(given) == BedrockConfig()


def test_credentials_are_not_shown() -> None:
    given = BedrockConfig.model_validate({"aws_access_key_id": KEY_ID, "aws_secret_access_key": OWNER.secret})
    for shown in (repr(given), str(given), given.model_dump_json(), repr(given.credential("us-east-1"))):
        assert OWNER.secret not in shown
        assert KEY_ID not in shown


async def test_it_opens_without_aws_and_without_credentials() -> None:
    given = {
        "region_name": "us-east-1",
        "endpoint_url": "http://127.0.0.1:1",
        "control_endpoint_url": "http://127.0.0.1:1",
    }
    provider = ProviderConfig(provider_id="b", provider_type="remote::bedrock", config=given)
    async with asyncio.timeout(PATIENCE), open_providers([provider], KINDS, "inference") as providers:
        assert isinstance(providers["b"], Bedrock)


async def test_without_a_region_it_does_not_open() -> None:
    with pytest.raises(ConfigError, match="set region_name, or AWS_DEFAULT_REGION"):
        await Bedrock(BedrockConfig()).__aenter__()


async def test_without_its_profile_it_does_not_open() -> None:
    with pytest.raises(ConfigError, match="nobody"):
        await Bedrock(BedrockConfig(profile_name="nobody")).__aenter__()


async def test_a_profile_brings_region_and_credentials(server: BedrockServer, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile team]\nregion = us-west-2\n")
    keys = f"aws_access_key_id = {KEY_ID}\naws_secret_access_key = {OWNER.secret}"
    (tmp_path / "credentials").write_text(f"[team]\n{keys}\n")
    async with opened(server, own=False, region_name=None, profile_name="team") as provider:
        await provider.chat_completion(CHAT)
    assert [(signed.key_id, signed.region) for signed in server.signed] == [(KEY_ID, "us-west-2")]


# Whose credentials


@pytest.mark.parametrize("provider_data", [None, "{}", '{"together_api_key": "x"}'])
async def test_the_server_s_own_are_for_those_who_send_none(
    provider: Bedrock, server: BedrockServer, provider_data: str | None
) -> None:
    with calling(provider_data):
        await provider.chat_completion(CHAT)
    assert [signed.key_id for signed in server.signed] == [KEY_ID]


@pytest.mark.parametrize("key_id", CALLERS)
async def test_a_caller_s_come_before_the_server_s(provider: Bedrock, server: BedrockServer, key_id: str) -> None:
    server.accounts = dict(CALLERS)
    with calling(data(key_id, aws_region_name="eu-west-1")):
        await provider.chat_completion(CHAT)
        _ = [chunk async for chunk in await provider.stream_chat_completion(CHAT)]
        await provider.completion(TEXT)
        await provider.embeddings(pb.EmbeddingsRequest(model_id=TITAN, contents=[texts.content("a")]))
    assert {(s.key_id, s.region, s.token) for s in server.signed} == {(key_id, "eu-west-1", CALLERS[key_id].token)}
    assert len(server.signed) == 4


@pytest.mark.parametrize(
    "provider_data",
    [
        {"aws_access_key_id": KEY_ID},
        {"aws_secret_access_key": "hunter2"},
        {"aws_session_token": "hunter2"},
        {"aws_region_name": "us-west-2"},
        {"aws_access_key_id": "", "aws_secret_access_key": "hunter2"},
        {"aws_access_key_id": "a", "aws_secret_access_key": "hunter2", "aws_region_name": "evil.com/#"},
        {"aws_access_key_id": "a", "aws_secret_access_key": ["hunter2"]},
        "hunter2",
    ],
)
async def test_half_a_credential_is_refused_and_nothing_is_sent(
    provider: Bedrock, server: BedrockServer, provider_data: Any
) -> None:
    for call in (provider.chat_completion, provider.stream_chat_completion):
        with calling(provider_data), pytest.raises(InvalidProviderData) as caught:
            await call(CHAT)
        assert "hunter2" not in caught.value.message
    with calling(provider_data), pytest.raises(InvalidProviderData):
        await provider.completion(TEXT)
    assert server.requests == []


async def test_a_caller_s_wrong_credential_never_falls_back_to_the_server_s(
    provider: Bedrock, server: BedrockServer
) -> None:
    wrong = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": "wrong", "aws_session_token": "canary-token"}
    with calling(wrong), pytest.raises(BackendUnauthenticated) as caught:
        await provider.chat_completion(CHAT)
    assert len(server.requests) == 1
    assert server.signed == []
    assert "canary-token" not in caught.value.message


async def test_who_has_none_where_the_server_has_none_is_told_what_to_send(server: BedrockServer) -> None:
    async with opened(server, own=False) as provider:
        for call in (provider.chat_completion, provider.stream_chat_completion):
            with pytest.raises(BackendUnauthenticated, match="send aws_access_key_id and aws_secret_access_key"):
                await call(CHAT)
        assert server.requests == []
        server.accounts = dict(CALLERS)
        with calling(data("AKIAALICE0000000000A")):
            await provider.chat_completion(CHAT)


@dataclass
class Crowd:
    """200 calls at once: of three callers, and of one who sends nothing.

    If they are `unlucky`, some are cancelled, some meet a connection that is closed, some a server that fails.
    """

    unlucky: bool
    came: dict[str, str] = field(default_factory=dict)
    """By what each said: whose key came with it."""
    nameless: list[object] = field(default_factory=list)
    """What became of the calls of the one who sends nothing."""

    async def call(self, provider: Bedrock, server: BedrockServer) -> None:
        server.accounts = dict(CALLERS)
        server.reply = partial(self._answer, server)
        async with asyncio.timeout(60):
            await asyncio.gather(*(self._one(provider, n) for n in range(200)))

    def _answer(self, server: BedrockServer, request: Received) -> Reply:
        self.came[request.body["messages"][0]["content"][0]["text"]] = server.signed[-1].key_id
        if self.unlucky and len(self.came) % 9 == 0:
            return Reply([HANG_UP])
        return server.refusal(503) if self.unlucky and len(self.came) % 7 == 0 else server.speak(request)

    async def _one(self, provider: Bedrock, n: int) -> None:
        sender = [*CALLERS, None][n % 4]
        request = pb.ChatCompletionRequest(model_id=PROFILE, messages=[user(f"say {n} {sender}")])
        with calling(data(sender) if sender else None):
            call = provider.chat_completion(request) if n % 3 else _streamed(provider, request)
            task: asyncio.Future[object] = asyncio.ensure_future(call)
        if self.unlucky and n % 5 == 0:
            await asyncio.sleep(0.001 * (n % 13))
            task.cancel()
        await asyncio.wait([task])
        if sender is None:
            self.nameless.append(type(None if task.cancelled() else task.exception()))


async def _streamed(provider: Bedrock, request: pb.ChatCompletionRequest) -> None:
    async for _ in await provider.stream_chat_completion(request):
        pass


def check_isolated(crowd: Crowd) -> None:
    """Also run against a planted bug."""
    assert crowd.came
    for said, key_id in crowd.came.items():
        assert said.split(" ")[2] == key_id, said


async def test_nobody_s_call_goes_with_another_s_key(server: BedrockServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    crowd = Crowd(unlucky=True)
    async with opened(server, own=False, max_connections=32, connect_timeout=30, total_max_attempts=2) as provider:
        await crowd.call(provider, server)
        check_isolated(crowd)
        shown = caplog.text + repr(provider.__dict__) + repr(provider._runtime.__dict__)
    assert {said.split(" ")[2] for said in crowd.came} == set(CALLERS)
    assert set(crowd.nameless) == {NoCredentials, NoneType}  # those that were cancelled before they could be refused
    for key_id, account in CALLERS.items():
        assert key_id not in shown
        assert account.secret not in shown
    assert "canary" not in shown


async def test_the_check_sees_a_key_that_is_taken_for_another_s(
    server: BedrockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: all have one client."""
    monkeypatch.setattr(Clients, "_key", lambda *_: b"bedrock")
    crowd = Crowd(unlucky=False)
    async with opened(server, own=False, max_connections=32, connect_timeout=30) as provider:
        await crowd.call(provider, server)
    with pytest.raises(AssertionError):
        check_isolated(crowd)


# What is served


async def test_what_the_account_has_is_served(provider: Bedrock) -> None:
    served = await provider.list_served()
    assert {LLAMA, TITAN, COHERE, PROFILE, f"global.{CLAUDE}", f"us.{LLAMA_32}"} <= set(served)
    assert CLAUDE not in served
    assert "amazon.titan-image-generator-v2:0" not in served
    assert "meta.llama3-1-405b-instruct-v1:0" not in served


async def test_an_application_profile_is_called_by_its_arn(provider: Bedrock, server: BedrockServer) -> None:
    [application] = server.applications
    assert application.arn in await provider.list_served()
    assert await provider.resolve(wanted(application.arn)) == application.arn
    request = pb.CompletionRequest(model_id=application.arn, content=texts.content("say well"))
    assert (await provider.completion(request)).content == "well"


async def test_profiles_come_page_by_page(provider: Bedrock, server: BedrockServer) -> None:
    server.page_size = 1
    assert {PROFILE, f"us.{LLAMA_32}"} <= set(await provider.list_served())


@pytest.mark.parametrize("reason", ["denied", "none", "off"])
async def test_where_nothing_may_be_listed_the_table_stands_in(server: BedrockServer, reason: str) -> None:
    if reason == "denied":
        server.accounts[KEY_ID] = Account(OWNER.secret, lists=False)
    more: dict[str, Any] = {"own": reason != "none", "list_models": reason != "off"}
    async with opened(server, **more) as provider:
        assert LLAMA in await provider.list_served()
        assert PROFILE not in await provider.list_served()
        assert await provider.resolve(wanted(PROFILE)) == PROFILE
        await provider.load(wanted(PROFILE))
        assert PROFILE in await provider.list_served()
        await provider.unload(PROFILE)
        assert PROFILE not in await provider.list_served()
        with pytest.raises(NotHosted):
            await provider.resolve(wanted("no-such-model"))


@pytest.mark.parametrize("more", [{}, {"own": False}, {"list_models": False}])
async def test_a_backend_that_is_not_there_is_gone(server: BedrockServer, more: dict[str, Any]) -> None:
    async with opened(server, **more) as provider:
        await server.__aexit__()
        with pytest.raises(BackendUnreachable) as caught:
            await provider.list_served()
        assert caught.value.gone
    server._server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)


async def test_a_backend_that_is_silent_is_unreachable(server: BedrockServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "answer", lambda _: Reply([STALL]))
    async with opened(server, read_timeout=0.5) as provider:
        with pytest.raises(BackendUnreachable):
            await provider.list_served()


async def test_credentials_that_are_not_accepted_serve_nothing(server: BedrockServer) -> None:
    server.accounts.clear()
    async with opened(server) as provider:
        with pytest.raises(BackendUnauthenticated):
            await provider.list_served()


async def test_a_caller_s_account_says_what_his_names_mean(server: BedrockServer) -> None:
    server.accounts = {**OWN, **CALLERS}
    async with opened(server) as provider:
        with calling(data("AKIAALICE0000000000A")):
            assert await provider.resolve(wanted("Llama3.2-1B-Instruct")) == f"us.{LLAMA_32}"
    assert {signed.key_id for signed in server.signed} == {"AKIAALICE0000000000A"}


async def test_a_list_is_not_asked_for_each_time(provider: Bedrock, server: BedrockServer) -> None:
    for _ in range(10):
        await provider.list_served()
    assert [request.path.partition("?")[0] for request in server.requests] == [
        "/foundation-models",
        "/inference-profiles",
        "/inference-profiles",
    ]


async def test_a_list_waits_for_no_call(server: BedrockServer) -> None:
    server.reply = Reply([STALL])
    async with opened(server, max_connections=1, connect_timeout=0.2) as provider:
        calling_ = asyncio.ensure_future(provider.chat_completion(CHAT))
        await until(lambda: server.requests, PATIENCE)
        assert LLAMA in await provider.list_served()
        calling_.cancel()


# What models cannot do


def with_tools(model: str) -> pb.ChatCompletionRequest:
    request = pb.ChatCompletionRequest(model_id=model, messages=[user("call weather and clock")])
    request.tools.extend([tool("weather", city="string"), tool("clock")])
    return request


async def test_a_model_that_streams_no_tools_is_asked_for_the_whole(provider: Bedrock, server: BedrockServer) -> None:
    for _ in range(2):
        events = [chunk.event async for chunk in await provider.stream_chat_completion(with_tools(LLAMA))]
        calls_ = [event.tool_call.call.tool_name.custom for event in events if event.tool_call.HasField("call")]
        assert calls_ == ["weather", "clock"]
        assert events[-1].stop_reason == content_pb2.StopReason.STOP_REASON_END_OF_MESSAGE
        assert events[-1].usage.completion_tokens > 0
    asked = [request.path.rpartition("/")[2] for request in server.requests]
    assert asked == ["converse-stream", "converse", "converse"]


async def test_it_still_streams_to_it_without_tools(provider: Bedrock, server: BedrockServer) -> None:
    await (await provider.stream_chat_completion(with_tools(LLAMA))).aclose()
    chat = pb.ChatCompletionRequest(model_id=LLAMA, messages=[user("say well")])
    events = [chunk.event async for chunk in await provider.stream_chat_completion(chat)]
    assert "".join(event.text for event in events) == "well"
    assert server.requests[-1].path.endswith("converse-stream")


async def test_a_choice_that_a_model_does_not_have_is_unsupported(provider: Bedrock) -> None:
    request = with_tools(LLAMA)
    request.tool_choice = content_pb2.ToolChoice.TOOL_CHOICE_REQUIRED
    with pytest.raises(Unsupported, match=r"toolChoice\.any"):
        await provider.chat_completion(request)
    with pytest.raises(Unsupported, match="tool use"):
        await provider.chat_completion(with_tools(f"us.{LLAMA_32}"))


async def test_a_stop_sequence_ends_a_completion_at_once(provider: Bedrock, server: BedrockServer) -> None:
    """The model, which takes none, would go on for 60 tokens."""
    request = pb.CompletionRequest(model_id=LLAMA, content=texts.content("Once upon"))
    request.sampling_params.max_tokens = 60
    whole = await provider.completion(request)
    stop = whole.content[5:8]
    request.sampling_params.stop.append(stop)
    answer = await provider.completion(request)
    assert answer.content == whole.content[: whole.content.index(stop)]
    assert 0 < answer.usage.completion_tokens < 20 < whole.usage.completion_tokens
    await until(lambda: server.working == 0, PATIENCE)
    assert server.last.disconnected.is_set()


# Vectors


async def test_texts_are_embedded_in_order_whatever_the_model_takes_at_once(
    provider: Bedrock, server: BedrockServer
) -> None:
    said = [f"text {n}" for n in range(100)]
    for model, requests in ((TITAN, 100), (COHERE, 2)):
        server.requests.clear()
        request = pb.EmbeddingsRequest(model_id=model, contents=[texts.content(each) for each in said])
        answer = await provider.embeddings(request)
        assert [list(each.values) for each in answer.embeddings] == [
            pytest.approx(server.model.embed(each), abs=1e-6) for each in said
        ]
        assert answer.usage.prompt_tokens == 400
        assert len(server.requests) == requests


async def test_few_texts_are_embedded_at_a_time(provider: Bedrock, server: BedrockServer) -> None:
    most = 0

    def speak(request: Received) -> Reply:
        nonlocal most
        most = max(most, server.working)
        reply = server.speak(request)
        return Reply([0.02, *reply.pieces], headers=reply.headers)

    server.reply = speak
    await provider.embeddings(pb.EmbeddingsRequest(model_id=TITAN, contents=[texts.content("a")] * 40))
    assert 2 <= most <= 8


async def test_one_text_that_fails_ends_the_others(provider: Bedrock, server: BedrockServer) -> None:
    count = 0

    def speak(request: Received) -> Reply:
        nonlocal count
        count += 1
        return server.refusal(400) if count == 4 else Reply([STALL])

    server.reply = speak
    with pytest.raises(MeshError, match="ValidationException"):
        await provider.embeddings(pb.EmbeddingsRequest(model_id=TITAN, contents=[texts.content("a")] * 40))
    await until(lambda: server.working == 0, PATIENCE)
    assert count < 20, "the most were never begun"


# Connections


async def test_a_connection_that_idled_too_long_is_made_anew(provider: Bedrock, server: BedrockServer) -> None:
    await provider.chat_completion(CHAT)
    hung = 0

    def speak(request: Received) -> Reply:
        nonlocal hung
        hung += 1
        return Reply([HANG_UP]) if hung == 1 else server.speak(request)

    server.reply = speak
    answer = await provider.chat_completion(CHAT)
    assert texts.plain(answer.completion_message.content) == "well"
    assert (hung, server.connections) == (2, 2)
    hung = 0
    assert [chunk async for chunk in await provider.stream_chat_completion(CHAT)]
    assert hung == 2


async def test_a_server_that_hangs_up_on_a_new_connection_is_not_asked_again(
    provider: Bedrock, server: BedrockServer
) -> None:
    server.reply = Reply([HANG_UP])
    with pytest.raises(BackendUnreachable, match="closed the connection"):
        await provider.chat_completion(CHAT)
    assert len(server.requests) == 1


async def test_it_tries_again_as_often_as_it_is_told_to(server: BedrockServer) -> None:
    server.reply = lambda request: server.refusal(503) if len(server.requests) == 1 else server.speak(request)
    async with opened(server, total_max_attempts=2) as provider:
        assert await provider.chat_completion(CHAT)
    assert len(server.requests) == 2
