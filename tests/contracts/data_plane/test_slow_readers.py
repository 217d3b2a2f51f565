"""Who does not read, client or backend, costs a bounded amount of memory, and nobody else's time."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.backend import Seen
from tests.contracts.data_plane.mesh import Mesh, called, running
from tests.contracts.data_plane.plane import MODEL, BareProxyPlane
from tests.contracts.data_plane.processes import memory
from tests.waiting import until

MEMORY_A_STREAM = 5_000_000
"""Bytes of the plane for one stalled stream: 100 of them cost at most 500 MB."""
MESSAGE = 64 * 1024
MESSAGES = 320
"""20 MiB a stream: more than all buffers on the way hold."""
CALLS = 200
ROUNDS = 8


async def p99(client: api.Client) -> float:
    """Seconds, of short streams one after the other."""
    took: list[float] = []
    for _ in range(CALLS):
        at = time.perf_counter()
        call = client.server_stream(api.request(MODEL, messages=1))
        await call.read()
        took.append(time.perf_counter() - at)
        call.cancel()
    return sorted(took)[int(CALLS * 0.99)]


def stalling(address: str) -> grpc.aio.Channel:
    """A client whose own buffers are small, so that what it does not read is somebody else's to keep."""
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))
    return grpc.aio.insecure_channel(address, options=options)


async def settled(seen: list[Seen]) -> None:
    """Wait until the backend can write no more."""
    written = -1
    while written != (now := sum(one.written for one in seen)):
        written = now
        await asyncio.sleep(0.5)


async def check_stalled_readers(mesh: Mesh, streams: int, *, patience: float = 20) -> None:
    async with stalling(mesh.plane.address) as own, mesh.connected() as other:
        slow = api.Client(own, mesh.plane.always)
        quiet = max([await p99(other) for _ in range(3)])
        before = memory(mesh.plane.pid)
        calls, seen = [], []
        for _ in range(streams):
            call_id, metadata = called()
            message = api.request(MODEL, messages=MESSAGES, size=MESSAGE)
            calls.append(slow.server_stream(message, metadata=metadata, timeout=120))
            await calls[-1].read()
            seen.append(await mesh.seen(call_id))
        await settled(seen)
        grown = memory(mesh.plane.pid) - before
        assert grown <= streams * MEMORY_A_STREAM, f"{grown / 1e6:.0f} MB for {streams} streams"
        assert not [one for one in seen if one.ended]
        async with asyncio.timeout(patience):
            rounds = [await p99(other)]
            while rounds[-1] > 2 * quiet and len(rounds) < ROUNDS:
                rounds.append(await p99(other))
        assert rounds[-1] <= 2 * quiet  # noise can only lengthen a round; a plane that blocks lengthens all of them
        for call in calls:
            call.cancel()
        await until(lambda: all(one.ended for one in seen))


async def check_stalled_backends(mesh: Mesh, streams: int) -> None:
    """Each client writes until the backend, which reads no more, lets it write no further."""
    async with mesh.connected() as client:
        before = memory(mesh.plane.pid)

        async def fill(call: Any) -> int:
            await call.write(api.request(MODEL, stall=True))
            for written in range(MESSAGES):
                try:
                    async with asyncio.timeout(2):
                        await call.write(api.request(payload=bytes(MESSAGE)))
                except TimeoutError:
                    return written
            return MESSAGES

        calls = [client.bidi(timeout=120) for _ in range(streams)]
        written = await asyncio.gather(*map(fill, calls))
        grown = memory(mesh.plane.pid) - before
        assert grown <= streams * MEMORY_A_STREAM, f"{grown / 1e6:.0f} MB for {streams} streams"
        assert max(written) < MESSAGES
        for call in calls:
            call.cancel()


@pytest.mark.timeout(120)
async def test_stalled_backends(mesh: Mesh):
    await check_stalled_backends(mesh, 20)


@pytest.mark.timeout(120)
async def test_stalled_readers(mesh: Mesh):
    await check_stalled_readers(mesh, 20)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_a_hundred_stalled_readers(mesh: Mesh):
    await check_stalled_readers(mesh, 100)


async def test_check_fails_on_a_plane_that_buffers(tmp_path: Path):
    async with running(BareProxyPlane("buffers"), tmp_path) as mesh:
        with pytest.raises(AssertionError, match="MB for"):
            await check_stalled_readers(mesh, 10)


async def test_check_fails_on_a_plane_where_one_write_waits_for_another(tmp_path: Path):
    async with running(BareProxyPlane("one writer"), tmp_path) as mesh:
        with pytest.raises(TimeoutError):
            await check_stalled_readers(mesh, 1, patience=1)
