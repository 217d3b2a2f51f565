"""Who gives up is heard at the other end, at once."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest

from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh, called, running
from tests.contracts.data_plane.plane import MODEL, BareProxyPlane
from tests.waiting import until

BOUND = 0.4
"""Seconds from the client's cancel to the backend's."""


async def check_cancel(mesh: Mesh, shape: str, answers: int) -> None:
    """Cancel after `answers` answers have come; the backend hears of it within BOUND."""
    call_id, metadata = called()
    message = api.request(MODEL, messages=answers, stall=True)
    match shape:
        case "unary":
            call = mesh.client.unary(message, metadata=metadata)
        case "server_stream":
            call = mesh.client.server_stream(message, metadata=metadata)
        case "client_stream":
            call = mesh.client.client_stream(metadata=metadata)
            await call.write(message)
        case _:
            call = mesh.client.bidi(metadata=metadata)
            await call.write(message)
    seen = await mesh.seen(call_id)
    for _ in range(answers):
        await call.read()
    at = time.monotonic()
    call.cancel()
    await until(lambda: seen.ended, seconds=1)
    assert seen.ended == "cancelled"
    assert seen.ended_at - at < BOUND


SHAPES = [
    ("unary", 0),
    ("server_stream", 0),
    ("server_stream", 3),
    ("client_stream", 0),
    ("bidi", 0),
    ("bidi", 3),
]


@pytest.mark.parametrize(("shape", "answers"), SHAPES)
async def test_client_cancel_reaches_the_backend(mesh: Mesh, shape: str, answers: int):
    await check_cancel(mesh, shape, answers)


async def test_check_fails_on_a_plane_that_forgets(tmp_path: Path):
    async with running(BareProxyPlane("forgets to cancel"), tmp_path) as mesh:
        checks = (check_cancel(mesh, shape, answers) for shape, answers in SHAPES)
        found = await asyncio.gather(*checks, return_exceptions=True)
    assert [type(error) for error in found] == [TimeoutError] * len(SHAPES)


async def test_cancel_in_a_running_stream(mesh: Mesh):
    call_id, metadata = called()
    call = mesh.client.server_stream(api.request(MODEL, messages=100_000, delay_ms=1), metadata=metadata)
    for _ in range(5):
        await call.read()
    at = time.monotonic()
    call.cancel()
    seen = await mesh.seen(call_id)
    await until(lambda: seen.ended)
    assert seen.ended == "cancelled"
    assert seen.ended_at - at < BOUND


async def test_cancel_of_one_call_leaves_its_neighbours(mesh: Mesh):
    neighbour = mesh.client.server_stream(api.request(MODEL, messages=50, delay_ms=5))
    await neighbour.read()
    for _ in range(20):
        mesh.client.server_stream(api.request(MODEL, messages=5, stall=True)).cancel()
    assert [(await neighbour.read()).index for _ in range(1, 50)] == list(range(1, 50))
    assert await neighbour.code() is grpc.StatusCode.OK


async def test_lost_client_reaches_the_backend(mesh: Mesh):
    call_id, metadata = called()
    async with mesh.connected() as client:
        call = client.server_stream(api.request(MODEL, messages=1, stall=True), metadata=metadata)
        await call.read()
        seen = await mesh.seen(call_id)
    at = time.monotonic()
    await until(lambda: seen.ended)
    assert seen.ended == "cancelled"
    assert seen.ended_at - at < BOUND


@pytest.mark.parametrize("after", [0, 2])
async def test_backend_cancel_reaches_the_client(mesh: Mesh, after: int):
    failure = api.Failure(after=after, code=grpc.StatusCode.CANCELLED.value[0], message="the backend gave up")
    call = mesh.client.bidi()
    await call.write(api.request(MODEL, messages=5, failure=failure))
    for _ in range(after):
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.CANCELLED, "the backend gave up")


async def test_backend_that_ends_early_ends_the_clients_stream(mesh: Mesh):
    """The client still writes; the backend has said OK."""
    call = mesh.client.bidi()
    await call.write(api.request(MODEL, messages=2))
    assert [(await call.read()).index for _ in range(2)] == [0, 1]
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
