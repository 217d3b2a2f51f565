"""What the adapters of vendors have in common: whose key is sent, what counts as served, what a name means."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services.inference import tables, texts
from services.inference.openai.hosted import Hosted, HostedConfig
from services.inference.providers import KINDS
from services.inference.providers.fireworks import Fireworks, FireworksConfig
from services.inference.providers.together import Together, TogetherConfig
from stackmesh import errors
from stackmesh.common.v1 import content_pb2
from stackmesh.config import ConfigError, ProviderConfig, validate
from stackmesh.errors import MeshError
from stackmesh.hosted import HostedProvider
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted, open_providers
from stackmesh.routes import Api
from tests.calling import calling
from tests.fakes import fireworks_server, together_server
from tests.fakes.http_server import CUT, STALL, Received, Reply, failing, streaming, whole
from tests.fakes.openai_model import OpenAIDialectServer

OURS = "sk-server-0123456789"
THEIRS = "sk-caller-0123456789"


@dataclass(frozen=True)
class Vendor:
    name: str
    adapter: Callable[[Any], Hosted]
    config: type[HostedConfig]
    server: Callable[[], OpenAIDialectServer]
    model: str

    @property
    def field(self) -> str:
        return f"{self.name}_api_key"

    @property
    def table(self) -> list[str]:
        return sorted(tables.provider(self.name).ids)


VENDORS = [
    Vendor("together", Together, TogetherConfig, together_server.TogetherServer, together_server.CHAT_MODEL),
    Vendor("fireworks", Fireworks, FireworksConfig, fireworks_server.FireworksServer, fireworks_server.CHAT_MODEL),
]


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.name)
def vendor(request: pytest.FixtureRequest) -> Vendor:
    return request.param


@pytest.fixture
async def server(vendor: Vendor) -> AsyncGenerator[OpenAIDialectServer]:
    async with vendor.server() as server:
        yield server


@asynccontextmanager
async def opened(vendor: Vendor, url: str, **config: Any) -> AsyncGenerator[Hosted]:
    settings = vendor.config.model_validate({"url": url, "read_timeout": 5, **config})
    async with asyncio.timeout(30), vendor.adapter(settings) as provider:
        yield provider


@pytest.fixture
async def ours(vendor: Vendor, server: OpenAIDialectServer) -> AsyncGenerator[Hosted]:
    """With a key of the server's own."""
    async with opened(vendor, server.root, api_key=OURS) as provider:
        yield provider


@pytest.fixture
async def theirs(vendor: Vendor, server: OpenAIDialectServer) -> AsyncGenerator[Hosted]:
    """Callers bring keys."""
    async with opened(vendor, server.root) as provider:
        yield provider


def chat(vendor: Vendor, text: str = "say hello") -> pb.ChatCompletionRequest:
    message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(text)))
    return pb.ChatCompletionRequest(model_id=vendor.model, messages=[message])


async def every_method(provider: Hosted, vendor: Vendor) -> list[type[MeshError] | None]:
    """What each method came to."""
    text = pb.CompletionRequest(model_id=vendor.model, content=texts.content("say hello"))
    embedded = pb.EmbeddingsRequest(model_id=vendor.model, contents=[texts.content("x")])
    came_to: list[type[MeshError] | None] = []
    for method, request in [
        (provider.chat_completion, chat(vendor)),
        (provider.stream_chat_completion, chat(vendor)),
        (provider.completion, text),
        (provider.stream_completion, text),
        (provider.embeddings, embedded),
    ]:
        try:
            answer: Any = await method(request)
            if hasattr(answer, "aclose"):
                await answer.aclose()
            came_to.append(None)
        except MeshError as error:
            came_to.append(type(error))
    return came_to


def keys_sent(server: OpenAIDialectServer) -> set[str | None]:
    return {request.headers.get("authorization") for request in server.requests}


def wanted(name: str) -> Wanted:
    return Wanted(provider_resource_id=name)


# Configuration


def test_it_needs_none(vendor: Vendor) -> None:
    config = validate(vendor.config, {}, "config")
    assert (config.api_key, config.models, config.tls_verify) == (None, (), True)
    assert config.url.startswith("https://api.")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"url": "https://api.example.com/v1"}, "config.url: must be without /v1"),
        ({"url": "https://api.example.com/inference/v1/"}, "config.url: must be without /v1"),
        ({"url": "https://api.example.com/inference"}, "config.url: must be without /v1"),
        ({"url": "api.example.com"}, "config.url: must begin with http:// or https://"),
        ({"url": "https://user:secret@host"}, "config.url: must have no user, query or fragment"),
        ({"api_key": " "}, "config.api_key: must be printable ASCII"),
        ({"api_key": "secret\nX-Evil: 1"}, "config.api_key: must be printable ASCII"),
        ({"models": ["a b"]}, "config.models[0]: "),
        ({"max_tokens": 0}, "config.max_tokens: "),
        ({"read_timeout": 0}, "config.read_timeout: "),
        ({"api_token": "secret"}, "config.api_token: unknown key; did you mean `api_key`"),
    ],
)
def test_a_bad_configuration_says_what_to_change_and_shows_no_value(
    vendor: Vendor, config: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(vendor.config, config, "config")
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_empty_key_is_none(vendor: Vendor) -> None:
    """As `${env.NAME:}` gives it."""
    assert vendor.config.model_validate({"api_key": ""}).api_key is None


def test_the_key_is_not_shown(vendor: Vendor) -> None:
    config = vendor.config.model_validate({"api_key": OURS})
    assert OURS not in repr(config) + str(config) + config.model_dump_json()


async def test_it_opens_without_its_backend_and_from_configuration_alone(vendor: Vendor) -> None:
    at = {"url": "http://127.0.0.1:1"}
    config = ProviderConfig(provider_id="v", provider_type=f"remote::{vendor.name}", config=at)
    async with asyncio.timeout(10), open_providers([config], KINDS, "inference") as providers:
        assert isinstance(providers["v"], Hosted)


async def test_the_configured_max_tokens_is_sent_and_else_the_vendors_limit_holds(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted
) -> None:
    await ours.chat_completion(chat(vendor))
    assert server.last.body["max_tokens"] is None
    async with opened(vendor, server.root, api_key=OURS, max_tokens=77) as provider:
        await provider.chat_completion(chat(vendor))
    assert server.last.body["max_tokens"] == 77


# Whose key


@pytest.mark.parametrize("sent", [None, "{}", '{"vllm_api_token": "sk-other"}', '{"openai_api_key": "sk-other"}'])
async def test_the_servers_key_is_for_who_sends_none(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, sent: str | None
) -> None:
    with calling(sent):
        assert await every_method(ours, vendor) == [None] * 5
    assert keys_sent(server) == {f"Bearer {OURS}"}


async def test_a_callers_key_comes_before_the_servers(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, theirs: Hosted
) -> None:
    for provider in (ours, theirs):
        with calling(json.dumps({vendor.field: THEIRS})):
            assert await every_method(provider, vendor) == [None] * 5
    assert keys_sent(server) == {f"Bearer {THEIRS}"}


async def test_a_callers_key_is_not_for_what_the_process_asks(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, theirs: Hosted
) -> None:
    with calling(json.dumps({vendor.field: THEIRS})):
        await ours.list_served()
        assert keys_sent(server) == {f"Bearer {OURS}"}
        server.requests.clear()
        await theirs.list_served()
        assert keys_sent(server) == {None}


async def test_without_any_key_nothing_is_sent(vendor: Vendor, server: OpenAIDialectServer, theirs: Hosted) -> None:
    for sent in (None, "{}", '{"openai_api_key": "sk-other"}'):
        with calling(sent):
            assert await every_method(theirs, vendor) == [errors.BackendUnauthenticated] * 5
    with pytest.raises(errors.BackendUnauthenticated) as caught:
        await theirs.chat_completion(chat(vendor))
    assert caught.value.message == (
        f'{server.host} wants a key: send {{"{vendor.field}": "..."}} as provider data, or configure `api_key`'
    )
    assert server.requests == []


async def test_a_callers_wrong_key_never_falls_back_to_the_servers(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted
) -> None:
    server.key = OURS
    with calling(json.dumps({vendor.field: THEIRS})):
        assert await every_method(ours, vendor) == [errors.BackendUnauthenticated] * 5
        with pytest.raises(errors.BackendUnauthenticated) as caught:
            await ours.chat_completion(chat(vendor))
    assert THEIRS not in caught.value.message
    assert len(server.requests) == 6
    assert keys_sent(server) == {f"Bearer {THEIRS}"}


@pytest.mark.parametrize("sent", ["", "secret", "[]", '{"%s": 7}', '{"%s": ""}', '{"%s": "secret\\nX: 1"}'])
async def test_malformed_provider_data_is_refused_and_nothing_is_sent(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, sent: str
) -> None:
    with calling(sent.replace("%s", vendor.field)):
        assert await every_method(ours, vendor) == [errors.InvalidProviderData] * 5
        with pytest.raises(errors.InvalidProviderData) as caught:
            await ours.chat_completion(chat(vendor))
    assert "secret" not in caught.value.message
    assert server.requests == []


def keys_by_text(server: OpenAIDialectServer) -> dict[str, str | None]:
    return {request.body["messages"][0]["content"]: request.headers.get("authorization") for request in server.requests}


async def two_hundred_calls(vendor: Vendor, call: Callable[[str], Any]) -> dict[str, str | None]:
    """Calls of three callers with a key and of one without, all at the same time; the keys by what each asked."""

    async def one(n: int, key: str | None) -> None:
        with calling(None if key is None else json.dumps({vendor.field: key})):
            await call(f"say {n}")

    keys = [None, "sk-alice-1", "sk-bob-22", "sk-carol-333"]
    expected = {f"say {n}": keys[n % 4] for n in range(200)}
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(200):
            group.create_task(one(n, keys[n % 4]))
    return {text: f"Bearer {OURS if key is None else key}" for text, key in expected.items()}


async def test_callers_at_the_same_time_keep_their_own_keys(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted
) -> None:
    async def call(text: str) -> None:
        await asyncio.sleep(0)
        chunks = await ours.stream_chat_completion(chat(vendor, text))
        assert [chunk async for chunk in chunks]

    expected = await two_hundred_calls(vendor, call)
    assert keys_by_text(server) == expected


async def test_the_check_notices_a_key_that_is_kept_in_the_adapter(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted
) -> None:
    """As an SDK's client keeps one: setting it is easy, and another call sets it, too."""
    kept: list[str | None] = [None]

    async def call(text: str) -> None:
        kept[0] = ours.key()
        await asyncio.sleep(0)
        with calling(json.dumps({vendor.field: kept[0]})):
            await ours.chat_completion(chat(vendor, text))

    assert await two_hundred_calls(vendor, call) != keys_by_text(server)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 429, 500, 503])
async def test_a_key_is_in_no_log_and_no_error(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Not even when the vendor shows it."""

    def reply(request: Received) -> Reply:
        shown = request.headers["authorization"]
        return whole({"choices": shown}) if status == 200 else failing(status, {"error": {"message": f"see {shown}"}})

    server.reply = reply
    caplog.set_level(logging.DEBUG)
    problems: list[str] = []
    for sent in (None, json.dumps({vendor.field: THEIRS})):
        for method in (ours.chat_completion, ours.stream_chat_completion):
            with calling(sent):
                try:
                    await method(chat(vendor, "a secret prompt"))
                except MeshError as error:
                    problems.append(f"{error!r} {error.message} {error.metadata} {error.__cause__} {error.__context__}")
    said = [record.getMessage() for record in caplog.records]
    assert len(problems) == 4
    for shown in (OURS, THEIRS, "a secret prompt"):
        assert shown not in "\n".join([*problems, *said, repr(ours)])


# What counts as served, with a key of the server's own


async def test_what_the_vendor_lists_is_served(vendor: Vendor, server: OpenAIDialectServer, ours: Hosted) -> None:
    served = await ours.list_served()
    assert set(server.models) <= set(served)
    assert not any("flux" in name for name in served)
    assert set(served).isdisjoint(set(vendor.table) - set(server.models))


async def test_a_name_is_looked_up_in_the_list(vendor: Vendor, server: OpenAIDialectServer, ours: Hosted) -> None:
    server.models.append("my-account/my-own-model")
    assert await ours.resolve(wanted("Llama3.1-8B-Instruct")) == vendor.model
    assert await ours.resolve(wanted("meta-llama/Llama-3.1-8B-Instruct")) == vendor.model
    assert await ours.resolve(wanted("my-account/my-own-model")) == "my-account/my-own-model"
    for absent in ("Llama3.1-70B-Instruct", "somebody/else", vendor.table[-1]):
        with pytest.raises(errors.NotHosted, match=f"does not serve '{absent}'; .*llama"):
            await ours.resolve(wanted(absent))


async def test_what_is_loaded_is_not_served_unless_it_is_listed(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted
) -> None:
    await ours.load(wanted("somebody/gone"))
    assert "somebody/gone" not in await ours.list_served()


async def test_a_model_that_is_configured_is_served_without_being_listed(
    vendor: Vendor, server: OpenAIDialectServer
) -> None:
    for config in ({"api_key": OURS}, {}):
        async with opened(vendor, server.root, models=["my-deployment"], **config) as provider:
            assert "my-deployment" in await provider.list_served()
            assert await provider.resolve(wanted("my-deployment")) == "my-deployment"


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_key_of_ours_that_is_refused_serves_nothing(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, status: int
) -> None:
    """And is no reason to believe the table."""
    server.listing = failing(status, {"error": {"message": "because"}})
    with pytest.raises(MeshError, match=f"answered {status}: because"):
        await ours.list_served()
    with pytest.raises(MeshError, match=f"answered {status}: because"):
        await ours.resolve(wanted(vendor.model))


@pytest.mark.parametrize("listing", [{"no": "models"}, {"data": [{"no": "id"}]}, [{"no": "id"}], "text", None, [7]])
async def test_a_listing_of_another_form_is_internal(
    vendor: Vendor, server: OpenAIDialectServer, ours: Hosted, listing: Any
) -> None:
    server.listing = whole(listing)
    with pytest.raises(errors.Internal, match="does not have the form of its API"):
        await ours.list_served()


# What counts as served, when callers bring their keys


async def test_the_table_is_served_and_what_was_registered(vendor: Vendor, theirs: Hosted) -> None:
    assert sorted(await theirs.list_served()) == vendor.table
    await theirs.load(wanted("somebody/new"))
    await theirs.load(wanted("somebody/new"))
    await theirs.load(wanted(vendor.model))
    assert sorted(await theirs.list_served()) == sorted([*vendor.table, "somebody/new"])
    await theirs.unload("somebody/new")
    await theirs.unload("never-loaded")
    await theirs.unload(vendor.model)
    assert sorted(await theirs.list_served()) == vendor.table


@pytest.mark.parametrize("status", [200, 401, 403])
async def test_an_api_that_lists_nothing_without_a_key_is_there(
    vendor: Vendor, server: OpenAIDialectServer, theirs: Hosted, status: int
) -> None:
    server.listing = failing(status, {"error": {"message": "Invalid API key"}})
    hosted = HostedProvider(Api.API_INFERENCE, "p", "remote::any", theirs)
    await hosted.refresh()
    assert hosted.last is not None
    assert (sorted(hosted.last.provider_resource_ids), hosted.last.problem) == (vendor.table, "")
    assert keys_sent(server) == {None}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (failing(404, {}), "its url is wrong"),
        (failing(500, {}), "answered 500"),
        (failing(502, b"<html>"), "answered 502"),
        (failing(503, {}), "answered 503"),
        (streaming(CUT), "closed the connection"),
        (Reply([STALL]), "was silent"),
        (Reply([b"<html>"]), "not JSON"),
    ],
)
async def test_an_api_that_is_not_there_serves_nothing(
    vendor: Vendor, server: OpenAIDialectServer, reply: Reply, problem: str
) -> None:
    server.listing = reply
    async with opened(vendor, server.root, read_timeout=0.2) as provider:
        hosted = HostedProvider(Api.API_INFERENCE, "p", "remote::any", provider)
        await hosted.refresh()
        assert hosted.last is not None
        assert (list(hosted.last.provider_resource_ids), problem in hosted.last.problem) == ([], True)


async def test_a_host_that_is_not_there_serves_nothing(vendor: Vendor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for host, problem in [(f"127.0.0.1:{port}", "connection refused"), ("no-such-host.invalid", "not known")]:
        async with opened(vendor, f"http://{host}") as provider:
            with pytest.raises(errors.BackendUnreachable, match=problem):
                await provider.list_served()


async def test_a_name_is_looked_up_in_the_table_and_else_taken_for_an_id(
    vendor: Vendor, server: OpenAIDialectServer, theirs: Hosted
) -> None:
    taken = {
        "Llama3.1-8B-Instruct": vendor.model,
        "meta-llama/Llama-3.1-8B-Instruct": vendor.model,
        vendor.model: vendor.model,
        "somebody/new": "somebody/new",
        vendor.model.replace("3", "4"): vendor.model.replace("3", "4"),  # another version is another model
    }
    assert {name: await theirs.resolve(wanted(name)) for name in taken} == taken
    assert server.requests == []


def slips(name: str) -> list[str]:
    return [name[:-2] + name[-1], name + "t", name[:-3] + "x" + name[-2:], name.upper(), name.replace("-", "_", 1)]


async def test_what_is_a_slip_away_from_an_id_is_refused_and_names_it(vendor: Vendor, theirs: Hosted) -> None:
    for slip in slips(vendor.model):
        with pytest.raises(errors.NotHosted, match=vendor.model):
            await theirs.resolve(wanted(slip))
    for word in ("llama", "Llama3.1-8B-Instrct", "gpt-4"):
        with pytest.raises(errors.NotHosted, match="llama"):
            await theirs.resolve(wanted(word))
