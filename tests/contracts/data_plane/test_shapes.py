"""The four call shapes, in order, whole, as they come."""

import asyncio
import contextlib
import itertools
from typing import Any

import grpc
import pytest

from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh, called
from tests.contracts.data_plane.plane import MODEL
from tests.waiting import until

MANY = 1000
OK = grpc.StatusCode.OK


async def test_unary(mesh: Mesh):
    answer = await mesh.client.unary(api.request(MODEL, payload=b"hello"))
    assert (answer.payload, answer.received, answer.instance_id) == (b"hello", 1, "alpha")


async def test_server_stream_in_order(mesh: Mesh):
    call = mesh.client.server_stream(api.request(MODEL, messages=MANY, size=20))
    assert [answer.index async for answer in call] == list(range(MANY))
    assert await call.code() is grpc.StatusCode.OK


async def test_empty_server_stream(mesh: Mesh):
    call = mesh.client.server_stream(api.request(MODEL))
    assert [answer async for answer in call] == []
    assert await call.code() is grpc.StatusCode.OK


async def test_client_stream_in_order(mesh: Mesh):
    call_id, metadata = called()
    requests = [api.request(MODEL, payload=b"%d" % i) for i in range(MANY)]
    answer = await mesh.client.client_stream(iter(requests), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert answer.received == MANY
    assert seen.bodies == [request.SerializeToString() for request in requests]


async def test_bidi_in_order(mesh: Mesh):
    call = mesh.client.bidi(api.request(MODEL, payload=b"%d" % i) for i in range(MANY))
    answers = [answer async for answer in call]
    assert [answer.payload for answer in answers] == [b"%d" % i for i in range(MANY)]


async def test_bidi_answers_while_the_client_still_writes(mesh: Mesh):
    call = mesh.client.bidi()
    for i in range(20):
        await call.write(api.request(MODEL, payload=b"%d" % i))
        answer = await call.read()
        assert (answer.index, answer.payload) == (i, b"%d" % i)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_half_close_reaches_the_backend(mesh: Mesh):
    call_id, metadata = called()
    call = mesh.client.client_stream(metadata=metadata)
    await call.write(api.request(MODEL))
    await call.write(api.request(MODEL))
    seen = await mesh.seen(call_id)
    await until(lambda: len(seen.bodies) == 2)
    assert not seen.ended
    await call.done_writing()
    assert (await call).received == 2
    assert seen.ended == "ok"


async def test_server_goes_on_after_the_clients_half_close(mesh: Mesh):
    call = mesh.client.bidi(iter([api.request(MODEL, messages=50, delay_ms=1)]))
    assert [answer.index async for answer in call] == list(range(50))


@pytest.mark.parametrize(("answers", "code"), [(0, grpc.StatusCode.ABORTED), (3, grpc.StatusCode.ABORTED), (3, OK)])
async def test_answer_is_whole_though_the_client_still_writes(mesh: Mesh, answers: int, code: grpc.StatusCode):
    """With grpc's other client: the asynchronous one makes INTERNAL of any status that comes while it writes."""
    script: dict[str, Any] = {"messages": answers, "trailing_metadata": api.headers((("x-end", "told"),))}
    if code is not OK:
        script["failure"] = api.Failure(after=answers, code=code.value[0], message="enough")
    expected = (answers, code, "" if code is OK else "enough", "told")
    found = await asyncio.to_thread(_talkative, mesh, api.request(MODEL, **script), 20)
    assert found == [expected] * 20


def _talkative(mesh: Mesh, first: Any, calls: int) -> list[Any]:
    found = []
    with grpc.insecure_channel(mesh.plane.address) as channel:
        bidi = channel.stream_stream(
            api.BIDI,
            request_serializer=api.CallRequest.SerializeToString,
            response_deserializer=api.CallResponse.FromString,
        )
        for _ in range(calls):
            requests = itertools.chain([first], itertools.repeat(api.request(payload=bytes(1000)), 300))
            call = bidi(requests, metadata=mesh.plane.always, timeout=api.TIMEOUT)
            answers = 0
            with contextlib.suppress(grpc.RpcError):
                for _ in call:
                    answers += 1
            details = "" if call.code() is OK else call.details()
            found.append((answers, call.code(), details, dict(call.trailing_metadata()).get("x-end")))
    return found


async def check_first_message_comes_early(mesh: Mesh) -> None:
    """The first message is read while the backend waits before it makes the second."""
    call_id, metadata = called()
    mesh.alpha.released.clear()
    call = mesh.client.server_stream(api.request(MODEL, messages=2, hold_after=1), metadata=metadata)
    async with asyncio.timeout(2):
        assert (await call.read()).index == 0
    assert (await mesh.seen(call_id)).written == 1
    mesh.alpha.released.set()
    assert (await call.read()).index == 1
    assert await call.read() is grpc.aio.EOF


async def test_first_message_comes_before_the_last_is_made(mesh: Mesh):
    await check_first_message_comes_early(mesh)


async def test_many_at_once_on_one_connection(mesh: Mesh):
    async def one(number: int) -> bool:
        call = mesh.client.server_stream(api.request(MODEL, payload=b"%d" % number, messages=5, delay_ms=2))
        return [answer.payload async for answer in call] == [b"%d" % number] * 5

    assert all(await asyncio.gather(*(one(number) for number in range(80))))
