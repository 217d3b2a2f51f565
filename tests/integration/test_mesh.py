"""The whole mesh through its front door: names reach their providers, and what is wrong is said clearly."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from stackmesh import errors
from stackmesh.client import Client, assistant, system, text, user
from stackmesh.common.v1.content_pb2 import (
    Content,
    ContentItem,
    Image,
    Message,
    StopReason,
    ToolDefinition,
    ToolName,
    ToolParameter,
    ToolResponseMessage,
    UserMessage,
)
from stackmesh.errors import (
    BackendUnauthenticated,
    ContextExceeded,
    DeadlineExceeded,
    InvalidField,
    NotHosted,
    NotServing,
    QueueFull,
    ResourceNotFound,
    Unsupported,
)
from stackmesh.inference.v1.inference_service_pb2 import ChatCompletionEventType, SamplingParams
from tests.fakes.fireworks_server import FireworksServer
from tests.fakes.http_server import STALL, streaming
from tests.fakes.mesh import all_serving, mesh_config, running_mesh
from tests.fakes.openai_model import event
from tests.fakes.openai_server import OpenAIServer
from tests.waiting import until

WHO = [user("who are you?")]


def echo(provider_id: str, *models: str):
    return {"provider_id": provider_id, "provider_type": "inline::echo", "config": {"models": models}}


def vllm(provider_id: str, url: str, **config: object):
    return {"provider_id": provider_id, "provider_type": "remote::vllm", "config": {"url": url, **config}}


@pytest.fixture
async def backend() -> AsyncGenerator[OpenAIServer]:
    async with OpenAIServer("big", "small") as server:
        yield server


# Names


async def test_each_model_reaches_its_own_provider_under_its_own_name(tmp_path):
    declared = [
        "one",
        {"model_id": "alias-of-two", "provider_id": "left", "provider_model_id": "two"},
        {"model_id": "three", "provider_id": "right"},
        {"model_id": "meta/four:latest", "provider_id": "right", "provider_model_id": "vendor/four"},
    ]
    config = mesh_config(tmp_path, [echo("left", "one", "two"), echo("right", "three", "vendor/four")], declared)
    names = {"one": "one", "alias-of-two": "two", "three": "three", "meta/four:latest": "vendor/four"}
    async with running_mesh(config, serving=list(names)) as client:
        for name, own in names.items():
            answer = await client.inference.chat_completion(model_id=name, messages=WHO)
            assert answer.completion_message.content.items[0].text == own
            assert (await client.models.get(name)).provider_resource_id == own


async def test_a_name_registered_just_now_answers_the_next_call(tmp_path):
    config = mesh_config(tmp_path, [echo("a", "one")], [])
    async with running_mesh(config) as client:
        for number in range(20):
            await client.models.register(f"mine-{number}", provider_model_id="one")
            answer = await client.inference.chat_completion(model_id=f"mine-{number}", messages=WHO)
            assert answer.completion_message.content.items[0].text == "one"


# What is not there


async def test_a_backend_that_is_down_at_boot_stops_nothing_and_joins_later(tmp_path, backend):
    late = OpenAIServer("late")
    async with late:
        port = late.port
    dead = vllm("dead", f"http://127.0.0.1:{port}/v1")
    config = mesh_config(
        tmp_path, [dead, vllm("live", backend.url)], [{"model_id": "late", "provider_id": "dead"}, "big"]
    )
    async with running_mesh(config, serving=["big"]) as client:
        assert (await client.inference.chat_completion(model_id="big", messages=[user("hi")])).usage.completion_tokens
        with pytest.raises(NotServing, match=f"127.0.0.1:{port}"):
            await client.inference.chat_completion(model_id="late", messages=[user("hi")])
        async with OpenAIServer("late", port=port):
            await until(lambda: all_serving(client, ["late"]), 30)
            await client.inference.chat_completion(model_id="late", messages=[user("hi")])


async def test_a_model_that_is_no_longer_served_says_so_and_comes_back(tmp_path, backend):
    config = mesh_config(tmp_path, [vllm("v", backend.url)], ["big", "small"])
    async with running_mesh(config, serving=["big", "small"]) as client:
        backend.models = ["small"]
        await until(lambda: _fails(client, "big"), 30)
        with pytest.raises(NotServing, match="small"):
            await client.inference.chat_completion(model_id="big", messages=[user("hi")])
        await client.inference.chat_completion(model_id="small", messages=[user("hi")])
        backend.models = ["big", "small"]
        await until(lambda: all_serving(client, ["big"]), 30)


async def _fails(client: Client, model: str) -> bool:
    return not await all_serving(client, [model])


async def test_an_unknown_model_names_what_is_served(tmp_path):
    config = mesh_config(tmp_path, [echo("a", "llama-one", "llama-two")], ["llama-one", "llama-two"])
    async with running_mesh(config, serving=["llama-one", "llama-two"]) as client:
        with pytest.raises(ResourceNotFound, match=r"'llama-won'.*llama-one"):
            await client.inference.chat_completion(model_id="llama-won", messages=[user("hi")])


# A remote backend behind the mesh


async def test_a_callers_key_reaches_its_backend_and_nothing_else(tmp_path, backend, caplog):
    backend.key = "sk-of-alice"
    config = mesh_config(tmp_path, [vllm("v", backend.url, api_token="sk-of-alice")], ["big"])
    async with running_mesh(config, serving=["big"]) as client:
        mallory = client.with_options(provider_data={"vllm_api_token": "sk-of-mallory"})
        with pytest.raises(BackendUnauthenticated) as caught:
            await mallory.inference.chat_completion(model_id="big", messages=[user("hi")])
        assert "sk-of" not in caught.value.message
        await client.inference.chat_completion(model_id="big", messages=[user("hi")])
        sent = [request.headers["authorization"] for request in backend.received("/v1/chat/completions")]
        assert sent == ["Bearer sk-of-mallory", "Bearer sk-of-alice"]
    assert "sk-of" not in caplog.text
    assert b"sk-of" not in (tmp_path / "registry.db").read_bytes()


async def test_callers_bring_their_keys_to_a_vendor(tmp_path, caplog):
    """Its list is not for those without a key: what is registered is served all the same."""
    async with FireworksServer(
        "accounts/fireworks/models/llama-v3p1-8b-instruct", "accounts/alice/models/own"
    ) as vendor:
        provider = {"provider_id": "f", "provider_type": "remote::fireworks", "config": {"url": vendor.root}}
        config = mesh_config(tmp_path, [provider], [{"model_id": "llama", "provider_model_id": "Llama3.1-8B-Instruct"}])
        vendor.key = "fw-of-alice"
        async with running_mesh(config, serving=["llama"]) as client:
            await client.models.register("own", provider_model_id="accounts/alice/models/own")
            await until(lambda: all_serving(client, ["own"]), 30)
            with pytest.raises(NotHosted, match="accounts/fireworks/models/llama-v3p1-8b-instruct"):
                await client.models.register("slip", provider_model_id="fireworks/llama-v3p1-8b-instruc")
            with pytest.raises(BackendUnauthenticated, match=r"fireworks_api_key.*provider data.*`api_key`"):
                await client.inference.chat_completion(model_id="llama", messages=[user("hi")])
            assert vendor.received("/inference/v1/chat/completions") == []
            alice = client.with_options(provider_data={"fireworks_api_key": "fw-of-alice"})
            for model in ("llama", "own"):
                assert (
                    await alice.inference.chat_completion(model_id=model, messages=[user("hi")])
                ).usage.prompt_tokens
        assert {request.headers.get("authorization") for request in vendor.requests} == {None, "Bearer fw-of-alice"}
    assert "fw-of" not in caplog.text
    assert b"fw-of" not in (tmp_path / "registry.db").read_bytes()


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_call_that_ends_early_ends_at_the_backend(tmp_path, backend, how):
    backend.reply = streaming(event({"content": "Hel"}), STALL)
    config = mesh_config(tmp_path, [vllm("v", backend.url)], ["big"])
    async with running_mesh(config, serving=["big"]) as client:
        hurried = client.with_options(timeout=0.5 if how == "deadline" else 20)
        stream = await hurried.inference.stream_chat_completion(model_id="big", messages=[user("hi")])
        (request,) = backend.received("/v1/chat/completions")
        if how == "cancel":
            await stream.aclose()
        else:
            with pytest.raises(DeadlineExceeded):
                _ = [chunk async for chunk in stream]
        async with asyncio.timeout(0.4):
            await request.disconnected.wait()


# A real model behind the mesh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory) -> AsyncGenerator[Client]:
    local = {"context_tokens": 512, "n_parallel": 1, "max_queue": 1}
    provider = {"provider_id": "local", "provider_type": "inline::llamacpp", "config": local}
    config = mesh_config(tmp_path_factory.mktemp("real"), [provider], [MODEL])
    async with running_mesh(config, serving=[MODEL]) as client:
        yield client


MODEL = "smollm2-135m-instruct"
STORY = [user("Tell me a long story about the sea.")]
in_module = pytest.mark.asyncio(loop_scope="module")
model_group = pytest.mark.xdist_group("llama.cpp")


@model_group
@in_module
async def test_tokens_come_as_they_are_generated(real: Client):
    params = SamplingParams(max_tokens=60, temperature=0, seed=1)
    stream = await real.inference.stream_chat_completion(model_id=MODEL, messages=STORY, sampling_params=params)
    came = [(time.monotonic(), chunk.event) async for chunk in stream]
    kinds = [event.event_type for _, event in came]
    types = ChatCompletionEventType
    assert kinds[0] == types.CHAT_COMPLETION_EVENT_TYPE_START
    assert kinds[-1] == types.CHAT_COMPLETION_EVENT_TYPE_COMPLETE
    assert set(kinds[1:-1]) == {types.CHAT_COMPLETION_EVENT_TYPE_PROGRESS}
    words = [at for at, event in came if event.text]
    assert len(words) > 30
    assert words[len(words) // 2] - words[0] > (words[-1] - words[0]) / 5, "they came all at once"
    end = came[-1][1]
    assert end.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
    assert end.usage.completion_tokens == 60
    assert end.usage.prompt_tokens > 5


@model_group
@in_module
async def test_all_five_methods_answer(real: Client):
    params = SamplingParams(max_tokens=8, temperature=0, seed=1)
    inference = real.inference
    whole = await inference.completion(model_id=MODEL, content=text("One, two,"), sampling_params=params)
    pieces = await inference.stream_completion(model_id=MODEL, content=text("One, two,"), sampling_params=params)
    assert "".join([piece.delta async for piece in pieces]) == whole.content != ""
    said = await inference.chat_completion(model_id=MODEL, messages=STORY, sampling_params=params)
    assert said.completion_message.content.items[0].text
    near, far = (await inference.embeddings(model_id=MODEL, contents=[text("sea"), text("tax law")])).embeddings
    assert len(near.values) == len(far.values) > 100
    assert near.values != far.values
    assert whole.usage.completion_tokens == said.usage.completion_tokens == 8


@model_group
@in_module
async def test_a_prompt_over_the_context_is_refused_with_both_numbers(real: Client):
    with pytest.raises(ContextExceeded) as caught:
        await real.inference.chat_completion(model_id=MODEL, messages=[user("word " * 900)])
    assert int(caught.value.metadata["prompt_tokens"]) > 900
    assert int(caught.value.metadata["context_tokens"]) == 512


@model_group
@in_module
async def test_a_full_queue_says_when_to_come_back(real: Client):
    calls = [
        asyncio.create_task(real.inference.chat_completion(model_id=MODEL, messages=STORY, sampling_params=LONG))
        for _ in range(3)
    ]
    done, rest = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for call in rest:
        call.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    (refused,) = done
    error = refused.exception()
    assert isinstance(error, QueueFull)
    assert error.retry_after is not None
    assert error.retry_after > 0


LONG = SamplingParams(max_tokens=400, seed=1)


@model_group
@in_module
async def test_a_cancelled_call_gives_its_slot_back(real: Client):
    """Two calls hold the slot and the queue; once both are cancelled, the next one starts."""
    for _ in range(3):
        stream = await real.inference.stream_chat_completion(model_id=MODEL, messages=STORY, sampling_params=LONG)
        waiting = asyncio.create_task(
            real.inference.chat_completion(model_id=MODEL, messages=STORY, sampling_params=LONG)
        )
        await until(lambda: in_flight(real, 2))
        waiting.cancel()
        await stream.aclose()
        async with asyncio.timeout(2):
            await real.inference.chat_completion(
                model_id=MODEL, messages=[user("Hi")], sampling_params=SamplingParams(max_tokens=1)
            )


@model_group
@in_module
async def test_a_deadline_stops_the_model(real: Client):
    hurried = real.with_options(timeout=0.5).inference

    async def story():
        stream = await hurried.stream_chat_completion(model_id=MODEL, messages=STORY, sampling_params=LONG)
        return [chunk async for chunk in stream]

    for _ in range(3):
        with pytest.raises(DeadlineExceeded):  # on a busy machine before the first token
            await story()
        async with asyncio.timeout(2):
            await real.inference.chat_completion(
                model_id=MODEL, messages=[user("Hi")], sampling_params=SamplingParams(max_tokens=1)
            )


async def in_flight(client: Client, count: int) -> bool:
    (provider,) = await client.inspect.providers()
    return provider.instances[0].requests_in_flight == count


@model_group
@in_module
async def test_what_a_model_cannot_do_is_unimplemented_with_the_reason(real: Client):
    picture = Message(user=UserMessage(content=Content(items=[ContentItem(image=Image(data=b"\x89PNG"))])))
    with pytest.raises(Unsupported, match="images"):
        await real.inference.chat_completion(model_id=MODEL, messages=[picture])


@model_group
@in_module
async def test_a_tool_is_called_and_its_result_read(real: Client):
    weather = ToolDefinition(
        tool_name=ToolName(custom="weather"), parameters={"city": ToolParameter(param_type="string")}
    )
    asked = [user("What is the weather in Oslo?")]
    answer = await real.inference.chat_completion(
        model_id=MODEL, messages=asked, tools=[weather], required_tool=weather.tool_name
    )
    [call] = answer.completion_message.tool_calls
    assert call.tool_name == weather.tool_name
    assert isinstance(call.arguments["city"], str)
    assert answer.completion_message.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    result = ToolResponseMessage(call_id=call.call_id, tool_name=call.tool_name, content=text("4 degrees"))
    asked += [Message(completion=answer.completion_message), Message(tool_response=result)]
    last = await real.inference.chat_completion(
        model_id=MODEL, messages=asked, tools=[weather], sampling_params=SamplingParams(max_tokens=8)
    )
    assert last.usage.prompt_tokens > answer.usage.prompt_tokens


# Bad requests


def sampling(**params: object) -> dict[str, object]:
    return {"messages": [user("hi")], "sampling_params": SamplingParams(**params)}


BAD = {
    "no messages": ({"messages": []}, "messages is empty"),
    "negative max_tokens": (sampling(max_tokens=-1), "sampling_params.max_tokens is -1"),
    "temperature NaN": (sampling(temperature=math.nan), "sampling_params.temperature is nan"),
    "system last": ({"messages": [user("hi"), system("x")]}, r"messages\[1\] is a system message"),
    "assistant last": ({"messages": [user("hi"), assistant("x")]}, r"messages\[1\] is a completion message"),
    "tool first": (
        {"messages": [Message(tool_response=ToolResponseMessage(call_id="1", content=text("x")))]},
        "answers no tool call",
    ),
    "empty model_id": ({"model_id": "", "messages": [user("hi")]}, "model_id is empty"),
    "long model_id": ({"model_id": "m" * 10_240, "messages": [user("hi")]}, "model_id is 10240 characters long"),
    "odd model_id": ({"model_id": "a b", "messages": [user("hi")]}, "model_id may hold"),
}


async def test_bad_requests_are_refused_with_their_field(tmp_path):
    config = mesh_config(tmp_path, [echo("a", "one")], ["one"])
    async with running_mesh(config, serving=["one"]) as client:
        for name, (fields, message) in BAD.items():
            with pytest.raises(InvalidField, match=message):
                await client.inference.chat_completion(**{"model_id": "one", **fields})
            with pytest.raises(InvalidField, match=message):
                await client.inference.stream_chat_completion(**{"model_id": "one", **fields})
            answer = await client.inference.chat_completion(model_id="one", messages=[user(name)])
            assert answer.completion_message.content.items[0].text == name


async def test_an_oversize_message_is_refused_and_the_next_one_passes(tmp_path):
    config = mesh_config(tmp_path, [echo("a", "one")], ["one"])
    async with running_mesh(config, serving=["one"]) as client:
        with pytest.raises(errors.ResourceExhausted):
            await client.inference.chat_completion(model_id="one", messages=[user("x" * 17 * 1024 * 1024)])
        await client.inference.chat_completion(model_id="one", messages=[user("x")])


async def test_a_call_without_a_deadline_is_bounded(tmp_path, backend):
    backend.reply = streaming(event({"content": "Hel"}), STALL)
    config = mesh_config(tmp_path, [vllm("v", backend.url)], ["big"], stream_timeout=0.5)
    async with running_mesh(config, serving=["big"]):
        async with Client(config.gateway.address) as unhurried:
            stream = await unhurried.inference.stream_chat_completion(model_id="big", messages=[user("hi")])
            with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
                _ = [chunk async for chunk in stream]
