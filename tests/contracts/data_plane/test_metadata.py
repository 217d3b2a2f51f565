"""What travels beside the messages: metadata both ways, statuses and their details."""

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh, called
from tests.contracts.data_plane.plane import MODEL

EVERY_BYTE = bytes(range(256))
SENT: api.Metadata = (
    ("x-plain", "some text, with commas; and = signs"),
    ("x-twice", "first"),
    ("x-twice", "second"),
    ("x-empty", ""),
    ("x-every-bin", EVERY_BYTE),
    ("x-twice-bin", b"\x00"),
    ("x-twice-bin", b"\xff\xfe"),
    ("x-empty-bin", b""),
)
KEYS = {key for key, _ in SENT}


def ours(metadata: api.Metadata) -> list[tuple[str, str | bytes]]:
    return sorted((key, value) for key, value in metadata if key in KEYS)


EXPECTED = ours(SENT)


async def check_metadata_both_ways(mesh: Mesh) -> None:
    call_id, metadata = called(*SENT)
    script = {"initial_metadata": api.headers(SENT), "trailing_metadata": api.headers(SENT)}
    call = mesh.client.unary(api.request(MODEL, **script), metadata=metadata)
    await call
    assert ours((await mesh.seen(call_id)).metadata) == EXPECTED
    assert ours(await call.initial_metadata()) == EXPECTED
    assert ours(await call.trailing_metadata()) == EXPECTED


async def test_metadata_both_ways(mesh: Mesh):
    await check_metadata_both_ways(mesh)


async def test_order_of_repeated_metadata_is_kept(mesh: Mesh):
    call_id, metadata = called(*SENT)
    await mesh.client.unary(api.request(MODEL), metadata=metadata)
    seen = await mesh.seen(call_id)
    assert seen.values("x-twice") == ["first", "second"]
    assert seen.values("x-twice-bin") == [b"\x00", b"\xff\xfe"]


@pytest.mark.parametrize("messages", [0, 3])
async def test_metadata_of_streams(mesh: Mesh, messages: int):
    script = {"initial_metadata": api.headers(SENT), "trailing_metadata": api.headers(SENT), "messages": messages}
    call = mesh.client.server_stream(api.request(MODEL, **script))
    assert ours(await call.initial_metadata()) == EXPECTED
    assert len([answer async for answer in call]) == messages
    assert ours(await call.trailing_metadata()) == EXPECTED


async def test_initial_metadata_comes_before_the_first_message(mesh: Mesh):
    script = {"initial_metadata": api.headers((("x-plain", "early"),)), "stall": True}
    call = mesh.client.server_stream(api.request(MODEL, **script))
    assert ("x-plain", "early") in tuple(await call.initial_metadata())
    call.cancel()


def failing(after: int, messages: int, **script: object) -> object:
    failure = api.Failure(after=after, code=grpc.StatusCode.ABORTED.value[0], message="it broke: ½ way & 100%")
    return api.request(MODEL, failure=failure, messages=messages, **script)


@pytest.mark.parametrize(("after", "messages"), [(0, 0), (0, 3), (1, 3), (3, 5), (5, 5)])
@pytest.mark.parametrize("shape", ["server_stream", "bidi"])
async def test_error_before_at_and_after_the_first_message(mesh: Mesh, shape: str, after: int, messages: int):
    message = failing(after, messages)
    if shape == "bidi":
        call = mesh.client.bidi()
        await call.write(message)
    else:
        call = mesh.client.server_stream(message)
    assert [(await call.read()).index for _ in range(after)] == list(range(after))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert caught.value.details() == "it broke: ½ way & 100%"


@pytest.mark.parametrize("shape", ["unary", "client_stream"])
async def test_error_instead_of_an_answer(mesh: Mesh, shape: str):
    message = failing(0, 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (mesh.client.unary(message) if shape == "unary" else mesh.client.client_stream(iter([message])))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.ABORTED, "it broke: ½ way & 100%")


async def test_error_while_the_client_still_writes(mesh: Mesh):
    call = mesh.client.bidi()
    await call.write(failing(1, 2))
    assert (await call.read()).index == 0
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()
    assert await call.code() is grpc.StatusCode.ABORTED


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_every_status_code(mesh: Mesh, code: grpc.StatusCode):
    failure = api.Failure(code=code.value[0], message=f"as {code.name}")
    call_id, metadata = called()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.client.unary(api.request(MODEL, failure=failure), metadata=metadata)
    assert (caught.value.code(), caught.value.details()) == (code, f"as {code.name}")
    assert len(mesh.all_seen(call_id)) == 1  # a status the backend decided is an answer, whatever its code


@pytest.mark.parametrize("after", [0, 2])
async def test_trailers_of_errors(mesh: Mesh, after: int):
    call = mesh.client.server_stream(failing(after, 3, trailing_metadata=api.headers(SENT)))
    for _ in range(after):
        await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert ours(caught.value.trailing_metadata()) == EXPECTED


async def check_status_details(mesh: Mesh) -> None:
    status = status_pb2.Status(code=10, message="it broke")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="TEST", domain="example.com", metadata={"a": "½"}))
    status.details.add(type_url="type.googleapis.com/nobody.knows.This", value=EVERY_BYTE)
    raw = status.SerializeToString() + b"\xf8\x7f\x81\x00"  # an unknown field, its value longer than it need be
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.client.unary(failing(0, 0, trailing_metadata=api.headers((("grpc-status-details-bin", raw),))))
    assert [v for k, v in caught.value.trailing_metadata() if k == "grpc-status-details-bin"] == [raw]


async def test_status_details_bit_for_bit(mesh: Mesh):
    await check_status_details(mesh)
