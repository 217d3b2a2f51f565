"""Bodies are bytes: none is rewritten, and each size up to the limit passes."""

import grpc
import pytest

from stackmesh.transport import MESSAGE_LIMIT
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh, called
from tests.contracts.data_plane.plane import MODEL

MIB = 1024 * 1024
UNKNOWN = b"\xd2\xf0\x04\x03\x00\xff\x7f" + b"\xd8\xf0\x04\x81\x80\x00"  # fields 9994 and 9995, the latter not minimal


async def test_request_bytes_arrive_unchanged(mesh: Mesh):
    body = UNKNOWN + api.request(MODEL, payload=b"x").SerializeToString() + UNKNOWN
    call_id, metadata = called()
    await mesh.client.raw_unary(body, metadata=metadata)
    assert (await mesh.seen(call_id)).bodies == [body]


async def test_fields_out_of_order_and_repeated_arrive_unchanged(mesh: Mesh):
    last_wins = api.request("not-this-one").SerializeToString() + api.request(MODEL).SerializeToString()
    call_id, metadata = called()
    await mesh.client.raw_unary(last_wins, metadata=metadata)
    assert (await mesh.seen(call_id)).bodies == [last_wins]


async def test_response_bytes_arrive_unchanged(mesh: Mesh):
    raw = UNKNOWN + b"\x08\x81\x00" + UNKNOWN
    assert await mesh.client.raw_unary(api.request(MODEL, raw=raw).SerializeToString()) == raw


async def test_compressed_request(mesh: Mesh):
    message = api.request(MODEL, payload=bytes(100_000))
    call_id, metadata = called()
    await mesh.client.unary(message, metadata=metadata, compression=grpc.Compression.Gzip)
    assert (await mesh.seen(call_id)).bodies == [message.SerializeToString()]


@pytest.mark.parametrize("method", [api.UNARY, api.IDEMPOTENT_UNARY])
async def test_empty_payload(mesh: Mesh, method: str):
    assert (await mesh.client.unary(api.request(MODEL), method=method)).payload == b""


async def test_empty_messages_in_a_stream(mesh: Mesh):
    messages = [api.request(MODEL), api.CallRequest(), api.CallRequest()]
    assert (await mesh.client.client_stream(iter(messages))).received == 3


async def test_fifteen_mebibytes_both_ways(mesh: Mesh):
    payload = bytes(15 * MIB)
    assert (await mesh.client.unary(api.request(MODEL, payload=payload))).payload == payload


async def test_fifteen_mebibytes_in_streams(mesh: Mesh):
    call = mesh.client.bidi(iter([api.request(MODEL, payload=b"a"), api.request(MODEL, payload=bytes(15 * MIB))]))
    assert [len(answer.payload) async for answer in call] == [1, 15 * MIB]


@pytest.mark.parametrize("shape", ["unary", "client_stream"])
async def test_over_the_limit_is_refused_and_the_connection_lives(mesh: Mesh, shape: str):
    """The refusal says RESOURCE_EXHAUSTED, no backend is bothered, and a stream beside it goes on."""
    beside = mesh.client.bidi()
    await beside.write(api.request(MODEL))
    await beside.read()
    message = api.request(MODEL, payload=bytes(MESSAGE_LIMIT + 128 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (mesh.client.unary(message) if shape == "unary" else mesh.client.client_stream(iter([message])))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await beside.write(api.request(MODEL, payload=b"still here"))
    assert (await beside.read()).payload == b"still here"
    await beside.done_writing()
    assert await beside.code() is grpc.StatusCode.OK
