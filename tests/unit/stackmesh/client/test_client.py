"""The client against a real gRPC server that answers by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import pytest

from stackmesh import errors
from stackmesh.client import Client, Stream, assistant, system, text, user
from stackmesh.inference.v1.inference_service_pb2 import SamplingParams
from stackmesh.registry.v1.resources_pb2 import Model
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry

SECRET = "sk-very-secret"


@dataclass
class Mesh:
    address: str
    inference: ScriptedInference
    registry: FakeRegistry


@pytest.fixture
async def mesh() -> AsyncGenerator[Mesh]:
    inference, registry = ScriptedInference(), FakeRegistry()
    async with serving(inference, registry) as address:
        yield Mesh(address, inference, registry)


@pytest.fixture
async def client(mesh: Mesh) -> AsyncGenerator[Client]:
    async with Client(mesh.address, timeout=10) as client:
        yield client


async def test_unary_calls_take_the_fields_of_the_request(client: Client) -> None:
    messages = [system("be brief"), user("hi"), assistant("hello"), user("bye")]
    answer = await client.inference.chat_completion(
        model_id="m", messages=messages, sampling_params=SamplingParams(temperature=0)
    )
    assert answer.usage.completion_tokens == 4
    assert (await client.inference.completion(model_id="m", content=text("on and on"))).content == "on and on"
    vectors = await client.inference.embeddings(model_id="m", contents=[text("a"), text("b")])
    assert len(vectors.embeddings) == 2


async def test_streams_come_as_they_are_generated(client: Client) -> None:
    chunks = [c.event.text async for c in await client.inference.stream_chat_completion(model_id="m")]
    assert chunks == ["one", "two", "three"]
    stream = await client.inference.stream_completion(model_id="m", content=text("a b"))
    assert [c.delta async for c in stream] == ["a", "b"]


async def test_the_await_raises_what_is_wrong_before_the_first_token(client: Client) -> None:
    with pytest.raises(errors.ResourceNotFound, match="no model is called 'unknown'"):
        await client.inference.stream_chat_completion(model_id="unknown")
    with pytest.raises(errors.InvalidField) as caught:
        await client.inference.stream_chat_completion(model_id="wrong")
    assert caught.value.field == "messages"


async def test_an_error_in_the_middle_keeps_what_came_before_it_and_its_type(client: Client) -> None:
    stream = await client.inference.stream_chat_completion(model_id="breaks")
    words: list[str] = []

    async def read() -> None:
        async for chunk in stream:
            await asyncio.sleep(0.05)  # slower than the server: the error waits behind the messages
            words.append(chunk.event.text)

    with pytest.raises(errors.QueueFull) as caught:
        await read()
    assert words == ["one", "two", "three"]
    assert caught.value.retry_after == 1.5


async def _leave_by_aclose(stream: Stream) -> None:
    await stream.aclose()


async def _leave_by_block(stream: Stream) -> None:
    async with stream:
        pass


@pytest.mark.parametrize("leave", [_leave_by_aclose, _leave_by_block])
async def test_closing_a_stream_cancels_the_call(client: Client, mesh: Mesh, leave) -> None:
    stream = await client.inference.stream_chat_completion(model_id="hang")
    assert not mesh.inference.ended.is_set()
    await leave(stream)
    async with asyncio.timeout(0.4):
        await mesh.inference.ended.wait()
    assert [chunk async for chunk in stream] == []


async def test_dropping_a_stream_cancels_the_call(client: Client, mesh: Mesh) -> None:
    async for _ in await client.inference.stream_chat_completion(model_id="hang"):
        break
    async with asyncio.timeout(2):
        await mesh.inference.ended.wait()


async def test_cancelling_the_task_cancels_the_call(client: Client, mesh: Mesh) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async for _ in await client.inference.stream_chat_completion(model_id="hang"):
            reading.set()

    task = asyncio.create_task(read())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.4):
        await mesh.inference.ended.wait()


async def test_an_open_stream_leaves_the_work_going(client: Client, mesh: Mesh) -> None:
    """The control of the three above: what they wait for does not happen by itself."""
    stream = await client.inference.stream_chat_completion(model_id="hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await mesh.inference.ended.wait()
    await stream.aclose()


async def test_a_call_the_other_side_cancelled_is_an_error_not_a_cancellation(client: Client) -> None:
    with pytest.raises(errors.Cancelled):
        await client.inference.chat_completion(model_id="cancelled")
    stream = await client.inference.stream_chat_completion(model_id="cancelled")
    with pytest.raises(errors.Cancelled):
        _ = [chunk async for chunk in stream]


async def test_deadlines(client: Client, mesh: Mesh) -> None:
    await client.inference.chat_completion(model_id="m")
    assert mesh.inference.remaining is not None
    assert 5 < mesh.inference.remaining < 11  # gRPC rounds up
    hurried = client.with_options(timeout=0.2)
    with pytest.raises(errors.DeadlineExceeded):
        await hurried.inference.chat_completion(model_id="hang")
    stream = await hurried.inference.stream_chat_completion(model_id="hang")
    with pytest.raises(errors.DeadlineExceeded):
        _ = [chunk async for chunk in stream]


async def test_without_a_timeout_the_limit_is_the_gateways(mesh: Mesh) -> None:
    async with Client(mesh.address) as client:
        await client.inference.chat_completion(model_id="m")
    assert mesh.inference.remaining is None


async def test_provider_data_is_merged_and_sent(mesh: Mesh) -> None:
    async with Client(mesh.address, provider_data={"a": "1", "b": "2"}) as client:
        await client.with_options(provider_data={"b": "3"}).inference.chat_completion(model_id="m")
        assert json.loads(mesh.inference.headers["x-stackmesh-provider-data"]) == {"a": "1", "b": "3"}
        await client.inference.chat_completion(model_id="m")
        assert json.loads(mesh.inference.headers["x-stackmesh-provider-data"]) == {"a": "1", "b": "2"}


async def test_provider_data_is_never_shown(mesh: Mesh) -> None:
    async with Client(mesh.address, provider_data={"key": SECRET}) as client:
        assert SECRET not in repr(client)
        assert SECRET not in repr(vars(client))


@pytest.mark.parametrize("value", ["x" * 5000, {1, 2}])
async def test_bad_provider_data_is_refused_before_the_wire(client: Client, value: object) -> None:
    with pytest.raises(errors.InvalidProviderData):
        await client.with_options(provider_data={"key": value}).inference.chat_completion(model_id="m")


async def test_lists_page_for_you(client: Client, mesh: Mesh) -> None:
    for number in range(7):
        mesh.registry.put(Model(identifier=f"m{number}"))
    names = [model.identifier async for model in client.models.list()]
    assert names == [f"m{i}" for i in range(7)]
    assert mesh.registry.asked == ["", "3", "6"]


async def test_a_list_left_early_asks_for_no_more_pages(client: Client, mesh: Mesh) -> None:
    for number in range(7):
        mesh.registry.put(Model(identifier=f"m{number}"))
    models = client.models.list()
    assert (await anext(models)).identifier == "m0"
    await models.aclose()
    assert mesh.registry.asked == [""]


async def test_a_gateway_that_is_not_there_is_unavailable() -> None:
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(errors.Unavailable):
            await client.inference.chat_completion(model_id="m")
        with pytest.raises(errors.Unavailable):
            await client.inference.stream_chat_completion(model_id="m")


async def test_a_client_is_opened_before_it_is_used() -> None:
    with pytest.raises(RuntimeError, match="open the client first"):
        Client("127.0.0.1:1").with_options(timeout=1)
