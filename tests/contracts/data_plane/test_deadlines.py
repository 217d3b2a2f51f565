"""A deadline travels with its call, and every call has one."""

import time

import grpc
import pytest

from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import STREAM_TIMEOUT, UNARY_TIMEOUT, Mesh, called
from tests.contracts.data_plane.plane import MODEL
from tests.waiting import until

ROUNDED_UP = 1.05
"""grpc-timeout has two or three significant digits, and each hop rounds up."""


@pytest.mark.parametrize("shape", api.SHAPES)
async def test_deadline_is_passed_on(mesh: Mesh, shape: str):
    call_id, metadata = called()
    call = mesh.client.start(shape, api.request(MODEL, messages=1), metadata=metadata, timeout=15)
    seen = await mesh.seen(call_id)
    assert 10 < seen.deadline <= 15 * ROUNDED_UP
    call.cancel()


@pytest.mark.parametrize("shape", api.SHAPES)
async def test_deadline_expires_everywhere(mesh: Mesh, shape: str):
    call_id, metadata = called()
    call = mesh.client.start(shape, api.request(MODEL, messages=1, stall=True), metadata=metadata, timeout=0.4)
    assert await api.ended(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    at = time.monotonic()
    seen = await mesh.seen(call_id)
    await until(lambda: seen.ended)
    assert seen.ended == "cancelled"
    assert seen.ended_at - at < 0.4


@pytest.mark.gateway
@pytest.mark.parametrize(
    ("shape", "limit"), [(shape, UNARY_TIMEOUT if shape == "unary" else STREAM_TIMEOUT) for shape in api.SHAPES]
)
async def test_default_deadline(mesh: Mesh, shape: str, limit: float):
    call_id, metadata = called()
    call = mesh.client.start(shape, api.request(MODEL, messages=1, stall=True), metadata=metadata, timeout=None)
    seen = await mesh.seen(call_id)
    assert seen.deadline is not None
    assert limit / 2 < seen.deadline <= limit * ROUNDED_UP
    assert await api.ended(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: seen.ended == "cancelled")


@pytest.mark.gateway
async def test_a_longer_deadline_of_the_client_counts(mesh: Mesh):
    call_id, metadata = called()
    call = mesh.client.unary(api.request(MODEL), metadata=metadata, timeout=10 * UNARY_TIMEOUT)
    await call
    assert (await mesh.seen(call_id)).deadline > UNARY_TIMEOUT
