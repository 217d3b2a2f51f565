"""What grpc.aio says of calls that fail on real sockets; a new grpcio that says it otherwise fails here."""

from __future__ import annotations

from contextlib import asynccontextmanager

import grpc
import pytest

from gateway import failures
from stackmesh.transport import internal_channel
from tests.fakes.h2_peer import REFUSED_STREAM, Peer, goaway, hang_up, reset, say_nothing

NOBODY = "127.0.0.1:1"


async def failure(address: str, shape: str, seconds: float = 5) -> tuple[grpc.aio.AioRpcError, bool]:
    """How a call fails there, and whether it is judged to be unprocessed."""
    async with internal_channel(address) as channel:
        if shape == "unary":
            answer = channel.unary_unary("/a.B/C")(b"", timeout=seconds)
        else:
            answer = channel.unary_stream("/a.B/C")(b"", timeout=seconds).read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
        return caught.value, failures.unprocessed(caught.value, channel)


@pytest.fixture(params=["unary", "stream"])
def shape(request) -> str:
    return request.param


async def test_nobody_listens(shape: str):
    error, unprocessed = await failure(NOBODY, shape)
    assert failures.lost(error)
    assert unprocessed


@pytest.mark.parametrize(
    ("misbehaviour", "unprocessed"),
    [
        (None, True),
        (reset(REFUSED_STREAM), True),
        (goaway(0), True),
        (goaway(0, close=True), True),
        (goaway(2**31 - 1, close=True), False),
        (hang_up, False),
        (reset(2), False),
        (reset(8), False),
    ],
    ids=["accepts and closes", "refused", "goaway", "goaway, close", "late goaway", "hangs up", "internal", "cancel"],
)
async def test_a_peer_that_fails(shape: str, misbehaviour, unprocessed: bool):
    async with Peer(misbehaviour).listening() as address:
        error, judged = await failure(address, shape)
    assert failures.lost(error)
    assert judged is unprocessed


@asynccontextmanager
async def answering(code: grpc.StatusCode, message: str, *trailers: tuple[str, str]):
    async def call(_request, context):
        await context.abort(code, message, trailers)

    server = grpc.aio.server()
    handlers = {"C": grpc.unary_unary_rpc_method_handler(call)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_what_a_peer_says_of_its_own_backend_is_its_answer():
    text = "failed to connect to all addresses; last error: ..."
    async with answering(grpc.StatusCode.UNAVAILABLE, text) as address:
        _, unprocessed = await failure(address, "unary")
    assert not unprocessed
    async with answering(grpc.StatusCode.UNAVAILABLE, text, ("k", "v")) as address:
        error, _ = await failure(address, "unary")
    assert not failures.lost(error)


async def test_a_deadline_that_passes_is_nobodys_fault():
    async with Peer(say_nothing).listening() as address:
        error, unprocessed = await failure(address, "unary", seconds=0.2)
    assert failures.timed_out(error)
    assert not failures.lost(error)
    assert not unprocessed
    async with answering(grpc.StatusCode.DEADLINE_EXCEEDED, "the backend was slow") as address:
        error, _ = await failure(address, "unary")
    assert not failures.timed_out(error)
