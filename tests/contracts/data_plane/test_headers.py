"""The headers the mesh gives a meaning to: removed, made, kept, checked."""

import re
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest

from stackmesh.headers import (
    INSTANCE_ID,
    PROVIDER_DATA,
    PROVIDER_DATA_ALIASES,
    PROVIDER_DATA_LIMIT,
    PROVIDER_ID,
    PROVIDER_RESOURCE_ID,
    REQUEST_ID,
    RESOURCE,
    REVISION,
    ROUTED,
    SERVED_BY,
    TRACEPARENT,
)
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import PAIR, Mesh, called, running
from tests.contracts.data_plane.plane import MODEL, PROVIDER, PROVIDER_MODEL, BareProxyPlane

pytestmark = pytest.mark.gateway

SECRET = '{"api_key": "sk-do-not-repeat-me"}'


async def check_spoofed_headers(mesh: Mesh) -> None:
    call_id, metadata = called(*((key, value) for key in ROUTED for value in ("intruder", PAIR, "intruder")))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert [seen.values(key) for key in ROUTED] == [[PROVIDER], [PROVIDER_MODEL], [MODEL], ["alpha"]]
    assert (PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, INSTANCE_ID) == ROUTED


async def test_spoofed_headers_are_removed(mesh: Mesh):
    await check_spoofed_headers(mesh)


async def test_check_fails_on_a_plane_that_keeps_them(tmp_path: Path):
    async with running(BareProxyPlane(), tmp_path) as mesh:
        with pytest.raises((AssertionError, grpc.aio.AioRpcError)):
            await check_spoofed_headers(mesh)


async def test_spoofed_headers_are_removed_where_no_resource_is_named(mesh: Mesh):
    call_id, metadata = called(*((key, "intruder") for key in ROUTED))
    await mesh.client.unary(api.request(), method=api.DEFAULT_UNARY, metadata=metadata)
    seen = await mesh.seen(call_id)
    assert "intruder" not in {value for key in ROUTED for value in seen.values(key)}


@pytest.mark.parametrize("key", [key + "-bin" for key in ROUTED])
async def test_binary_twins_mean_nothing(mesh: Mesh, key: str):
    call_id, metadata = called((key, b"intruder"))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert [seen.values(key) for key in ROUTED] == [[PROVIDER], [PROVIDER_MODEL], [MODEL], ["alpha"]]


async def test_correlation_is_made_where_absent(mesh: Mesh):
    found = []
    for _ in range(2):
        call_id, metadata = called()
        await mesh.client.unary(api.request(MODEL), metadata=metadata)
        seen = await mesh.seen(call_id)
        (request_id,), (traceparent,) = seen.values(REQUEST_ID), seen.values(TRACEPARENT)
        assert re.fullmatch(r"[A-Za-z0-9-]{8,64}", request_id)
        assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", traceparent)
        found.append((request_id, traceparent))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


async def test_correlation_is_kept_where_present(mesh: Mesh):
    trace = f"00-{uuid.uuid4().hex}-00f067aa0ba902b7-01"
    call_id, metadata = called((REQUEST_ID, "the-clients-own"), (TRACEPARENT, trace))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert (seen.values(REQUEST_ID), seen.values(TRACEPARENT)) == (["the-clients-own"], [trace])


async def signature(call: Any, shape: str) -> grpc.aio.Metadata:
    """Where an answer says who served it: a stream at its beginning, a unary answer in its trailers."""
    return await call.initial_metadata() if shape == "server_stream" else await call.trailing_metadata()


@pytest.mark.parametrize("shape", ["unary", "server_stream"])
async def test_answer_says_by_which_revision_it_was_routed(mesh: Mesh, shape: str):
    call = mesh.client.start(shape, api.request(MODEL, messages=1))
    revision = (await signature(call, shape))[REVISION]
    assert int(revision) > 0
    assert await api.ended(call) is grpc.StatusCode.OK


@pytest.mark.parametrize("shape", ["unary", "server_stream"])
@pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_what_a_backend_says_of_the_gateways_answer_is_not_passed_on(mesh: Mesh, shape: str, code: Any):
    spoofed = api.headers(((REVISION, "999999"), (SERVED_BY, "intruder")))
    failing = {} if code is grpc.StatusCode.OK else {"failure": api.Failure(code=code.value[0])}
    script = {"initial_metadata": spoofed, "trailing_metadata": spoofed, **failing}
    call = mesh.client.start(shape, api.request(MODEL, **script))
    assert await api.ended(call) is code
    said = [*await call.initial_metadata(), *await call.trailing_metadata()]
    assert [value for key, value in said if key == SERVED_BY] == ["alpha"]
    (revision,) = [value for key, value in said if key == REVISION]
    assert revision != "999999"
    assert (REVISION, revision) in tuple(await signature(call, shape))


@pytest.mark.parametrize("key", [PROVIDER_DATA, *PROVIDER_DATA_ALIASES])
async def test_provider_data_arrives_under_our_name(mesh: Mesh, key: str):
    call_id, metadata = called((key, SECRET))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert seen.values(PROVIDER_DATA) == [SECRET]
    assert [seen.values(alias) for alias in PROVIDER_DATA_ALIASES] == [[], []]


async def test_equal_provider_data_under_several_names_is_one(mesh: Mesh):
    call_id, metadata = called(*((key, SECRET) for key in (PROVIDER_DATA, *PROVIDER_DATA_ALIASES)))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    assert (await mesh.seen(call_id)).values(PROVIDER_DATA) == [SECRET]


@pytest.mark.parametrize(
    "keys",
    [
        (PROVIDER_DATA, PROVIDER_DATA_ALIASES[0]),
        PROVIDER_DATA_ALIASES,
        (PROVIDER_DATA, PROVIDER_DATA),
        (PROVIDER_DATA_ALIASES[1], PROVIDER_DATA),
    ],
)
async def test_provider_data_that_differs_is_refused(mesh: Mesh, keys: tuple[str, str]):
    await check_refused(mesh, (keys[0], SECRET), (keys[1], '{"api_key": "sk-do-not-repeat-me-either"}'))


async def test_provider_data_over_the_limit_is_refused(mesh: Mesh):
    padding = " " * (PROVIDER_DATA_LIMIT - len(SECRET))
    call_id, metadata = called((PROVIDER_DATA, SECRET[:-1] + padding + "}"))
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    assert len(mesh.all_seen(call_id)) == 1
    await check_refused(mesh, (PROVIDER_DATA, SECRET[:-1] + padding + " }"))


async def check_refused(mesh: Mesh, *provider_data: tuple[str, str]) -> None:
    before = mesh.calls()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.client.unary(api.request(MODEL), metadata=provider_data)
    error = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "do-not-repeat" not in f"{error.details()} {error.debug_error_string()}"
    assert b"do-not-repeat" not in b"".join(
        v if isinstance(v, bytes) else v.encode() for _, v in error.trailing_metadata()
    )
    assert mesh.calls() == before
    plane_log = mesh.folder / "plane.log"
    assert not plane_log.exists() or "do-not-repeat" not in plane_log.read_text()
