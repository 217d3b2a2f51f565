"""Instances come, leave and die; the streams of the others do not notice."""

import asyncio
import sys
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from stackmesh import headers
from stackmesh.announcer import Announcer, announced
from stackmesh.inspect.v1 import inspect_service_pb2
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub
from stackmesh.interceptors import Routed
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.routes import Api
from stackmesh.transport import internal_channel
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.backend import PROVIDER_TYPE, Backend
from tests.contracts.data_plane.mesh import Doomed, Mesh, called, channel, until_answered
from tests.contracts.data_plane.plane import MODEL
from tests.contracts.data_plane.processes import started
from tests.contracts.data_plane.refuser import Refuser
from tests.ports import free_port
from tests.waiting import until

pytestmark = pytest.mark.gateway


def named(what: str) -> str:
    return f"{what}-{uuid.uuid4().hex[:8]}"


async def spread(mesh: Mesh, model: str, wanted: int) -> None:
    """Wait until calls reach this many instances."""
    reached: set[str] = set()
    async with asyncio.timeout(10):
        while len(reached) < wanted:
            slow = api.request(model, delay_ms=30)
            answers = await asyncio.gather(*(until_answered(partial(mesh.client.unary, slow)) for _ in range(4)))
            reached = {answer.instance_id for answer in answers}


async def known(mesh: Mesh, provider: str, wanted: int) -> None:
    """Wait until the plane knows of this many instances, without a call to any."""
    stub, hosts = InspectServiceStub(mesh.channel), 0
    async with asyncio.timeout(10):
        while hosts != wanted:
            answer = await stub.ListProviders(inspect_service_pb2.ListProvidersRequest(), timeout=5)
            hosts = next((len(p.instances) for p in answer.providers if p.provider.provider_id == provider), 0)


async def streams(mesh: Mesh, count: int, message: Any) -> dict[str, list[Any]]:
    """Open streams, each with its first message read, by the instance that serves them."""
    found: dict[str, list[Any]] = {}
    for _ in range(count):
        call = mesh.client.server_stream(message)
        found.setdefault((await call.read()).instance_id, []).append(call)
    return found


async def answered(mesh: Mesh, model: str, calls: int) -> set[str]:
    """Who answers now. Every call is answered."""
    return {(await mesh.client.unary(api.request(model))).instance_id for _ in range(calls)}


async def test_instance_that_joins_is_used(mesh: Mesh):
    provider, model = named("joining"), named("model")
    async with mesh.joined(named("first"), provider, model):
        await mesh.register(model, provider_id=provider)
        await spread(mesh, model, 1)
        async with mesh.joined(named("second"), provider, model):
            await spread(mesh, model, 2)


async def test_instance_that_leaves_finishes_its_streams(mesh: Mesh):
    provider, model = named("leaving"), named("model")
    async with mesh.joined(named("stays"), provider, model) as stays, AsyncExitStack() as stack:
        leaves = await stack.enter_async_context(mesh.joined(named("leaves"), provider, model))
        await mesh.register(model, provider_id=provider)
        await spread(mesh, model, 2)
        held = await streams(mesh, 6, api.request(model, messages=3, hold_after=1))
        leaving = asyncio.create_task(stack.aclose())
        async with asyncio.timeout(10):
            while await answered(mesh, model, 5) != {stays.instance_id}:
                pass  # every call is answered meanwhile, or this raises
        assert await answered(mesh, model, 20) == {stays.instance_id}
        assert not leaving.done()
        for backend in (leaves, stays):
            backend.released.set()
            for call in held[backend.instance_id]:
                assert [(await call.read()).index for _ in range(2)] == [1, 2]
                assert await call.read() is grpc.aio.EOF
                assert await call.code() is grpc.StatusCode.OK
        await leaving


async def test_last_instance_that_leaves_leaves_a_reason(mesh: Mesh):
    provider, model = named("leaving"), named("model")
    async with mesh.joined(named("last"), provider, model):
        await mesh.register(model, provider_id=provider)
        await spread(mesh, model, 1)
    codes: list[grpc.StatusCode] = []

    async def gone() -> bool:
        codes.append(await mesh.client.unary(api.request(model)).code())
        return codes[-1] is grpc.StatusCode.FAILED_PRECONDITION

    async with asyncio.timeout(10):
        while not await gone():
            assert codes[-1] is grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def refused(mesh: Mesh, after: int) -> AsyncGenerator[tuple[str, Backend, Refuser]]:
    """A model with two instances, one of which refuses each stream after so many bytes."""
    provider, model = named("refused"), named("model")
    async with mesh.joined(named("serves"), provider, model) as serves:
        await mesh.register(model, provider_id=provider)
        await spread(mesh, model, 1)
        registry = mesh.config.registry.address
        async with Refuser(after).running(registry, named("refuses"), provider, model) as refuser:
            await known(mesh, provider, 2)
            yield model, serves, refuser


@pytest.mark.parametrize("shape", ["unary", "server_stream"])
async def test_refused_call_is_repeated_elsewhere(mesh: Mesh, shape: str):
    async with refused(mesh, 1) as (model, _, refuser):
        calls = [mesh.client.start(shape, api.request(model, messages=1)) for _ in range(20)]
        assert await asyncio.gather(*map(api.ended, calls)) == [grpc.StatusCode.OK] * 20
        assert refuser.refused


async def check_cut_off(client: api.Client, refuser: Refuser, shape: str, model: str) -> None:
    """The client cancels before its half-close: upstream the stream is reset, and never half-closed before that."""
    calls = 30
    for done in range(calls):
        call, before = getattr(client, shape)(), refuser.received
        await call.write(api.request(model))
        await until(lambda before=before: refuser.received > before)
        call.cancel()
        await until(lambda done=done: refuser.cancelled + refuser.refused > done)
    assert (refuser.cancelled, refuser.refused) == (calls, 0)


@pytest.mark.parametrize("shape", ["client_stream", "bidi"])
async def test_request_that_was_cut_off_never_looks_complete(mesh: Mesh, shape: str):
    provider, model = named("cut"), named("model")
    refuser = Refuser(sys.maxsize)  # it refuses what is half-closed
    async with AsyncExitStack() as stack:
        async with mesh.joined(named("serves"), provider, model):
            await mesh.register(model, provider_id=provider)
            registry = mesh.config.registry.address
            await stack.enter_async_context(refuser.running(registry, named("watches"), provider, model))
        await known(mesh, provider, 1)
        await check_cut_off(mesh.client, refuser, shape, model)


@pytest.mark.parametrize("shape", ["client_stream", "bidi"])
async def test_check_cut_off_fails_on_a_plane_that_takes_a_cancel_for_an_end(shape: str, tmp_path: Path):
    """grpc.aio does, unless something is done about it."""
    refuser, listen = Refuser(sys.maxsize), f"127.0.0.1:{free_port()}"
    module, log = "tests.contracts.data_plane.bare_proxy", tmp_path / "bare.log"
    async with refuser.listening() as address, started(module, listen, address, "none", log=log, address=listen):
        async with channel(listen) as own:
            with pytest.raises(AssertionError):
                await check_cut_off(api.Client(own), refuser, shape, MODEL)


@pytest.mark.parametrize("after", [1, 2000])
@pytest.mark.parametrize("shape", ["client_stream", "bidi"])
async def test_refused_stream_is_repeated_whole_or_not_at_all(mesh: Mesh, shape: str, after: int):
    """What went to the instance that refused it is lost: what arrives elsewhere has to begin at the beginning."""
    payloads = [b"%d" % i + bytes(500) for i in range(10)]

    async def one() -> tuple[bool, list[bytes]]:
        call_id, metadata = called()
        requests = (api.request(model, payload=payload) for payload in payloads)
        ok = await api.ended(getattr(mesh.client, shape)(requests, metadata=metadata)) is grpc.StatusCode.OK
        seen = [api.CallRequest.FromString(body).payload for one in serves.of(call_id) for body in one.bodies]
        return ok, seen

    async with refused(mesh, after) as (model, serves, refuser):
        for ok, seen in await asyncio.gather(*(one() for _ in range(40))):
            assert seen == (payloads if ok else [])
        assert refuser.refused


@dataclass(frozen=True, slots=True)
class Pair:
    model: str
    victim_id: str
    victim: Doomed
    survivor: Backend

    async def victim_has(self, call_id: str) -> bool:
        """Wait until one of the two has the call; whether it is the victim."""
        watch = asyncio.create_task(self.victim.saw(call_id))
        await until(lambda: watch.done() or self.survivor.of(call_id))
        found = watch.done()
        watch.cancel()
        return found


@asynccontextmanager
async def doomed(mesh: Mesh) -> AsyncGenerator[Pair]:
    """A model with two instances, one of which will be killed."""
    provider, model, victim_id = named("mortal"), named("model"), named("victim")
    async with mesh.joined(named("survivor"), provider, model) as survivor:
        async with mesh.joined_process(victim_id, provider, model) as victim:
            await mesh.register(model, provider_id=provider)
            await spread(mesh, model, 2)
            yield Pair(model, victim_id, victim, survivor)


async def test_killed_instance_fails_its_own_streams_only(mesh: Mesh):
    async with doomed(mesh) as pair:
        open_streams = await streams(mesh, 6, api.request(pair.model, messages=100_000, delay_ms=2))
        await pair.victim.kill()
        for call in open_streams[pair.victim_id]:
            assert await api.ended(call) is grpc.StatusCode.UNAVAILABLE
        for call in open_streams[pair.survivor.instance_id]:
            assert [(await call.read()).index for _ in range(100)] == list(range(1, 101))
            call.cancel()


async def in_flight(mesh: Mesh, pair: Pair, method: str) -> tuple[str, Any]:
    """A call that the victim has and has not answered."""
    message = api.request(pair.model, delay_ms=2000)
    others: list[Any] = []
    while True:
        call_id, metadata = called()
        call = mesh.client.unary(message, method=method, metadata=metadata)
        if await pair.victim_has(call_id):
            for other in others:
                other.cancel()
            return call_id, call
        others.append(call)


async def test_call_that_was_processed_is_not_repeated(mesh: Mesh):
    async with doomed(mesh) as pair:
        call_id, call = await in_flight(mesh, pair, api.UNARY)
        await pair.victim.kill()
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        await mesh.client.unary(api.request(pair.model))
        assert pair.survivor.of(call_id) == []


async def test_idempotent_call_is_repeated_elsewhere(mesh: Mesh):
    async with doomed(mesh) as pair:
        call_id, call = await in_flight(mesh, pair, api.IDEMPOTENT_UNARY)
        await pair.victim.kill()
        assert (await call).instance_id == pair.survivor.instance_id
        assert len(pair.survivor.of(call_id)) == 1


async def test_call_that_was_never_processed_is_repeated_elsewhere(mesh: Mesh):
    """The dead instance is still registered: its lease has not ended."""
    async with doomed(mesh) as pair:
        await pair.victim.kill()
        calls: Sequence[Any] = [mesh.client.unary(api.request(pair.model)) for _ in range(20)]
        answers = await asyncio.gather(*calls)
        assert {answer.instance_id for answer in answers} == {pair.survivor.instance_id}
        assert await answered(mesh, pair.model, 20) == {pair.survivor.instance_id}


class Credulous(Routed):
    """Does not look whom a call is meant for."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        kept = [kv for kv in handler_call_details.invocation_metadata if kv[0] != headers.INSTANCE_ID]
        return await super().intercept_service(continuation, handler_call_details._replace(invocation_metadata=kept))


@dataclass(frozen=True, slots=True)
class Squat:
    model: str
    rightful: Backend
    stranger: Backend
    """At the address at which the registry still has another instance."""


@asynccontextmanager
async def squatted(mesh: Mesh, routed: type[Routed] = Routed) -> AsyncGenerator[Squat]:
    """A model with two instances, one of which has died and left its address to a process of another mesh."""
    provider, model = named("reused"), named("model")
    async with AsyncExitStack() as stack:
        rightful = await stack.enter_async_context(mesh.joined(named("rightful"), provider, model))
        await mesh.register(model, provider_id=provider)
        stranger = Backend(named("stranger"), {provider: [model]}, routed=routed)
        await stack.enter_async_context(stranger.running(None))
        await stack.enter_async_context(remembered(mesh, provider, model, stranger.address))
        await known(mesh, provider, 2)
        yield Squat(model, rightful, stranger)


@asynccontextmanager
async def remembered(mesh: Mesh, provider: str, model: str, address: str) -> AsyncGenerator[None]:
    """While the body runs, the registry has an instance there, whoever it is that answers."""
    report = ServedReport(
        api=Api.API_INFERENCE, provider_id=provider, provider_type=PROVIDER_TYPE, provider_resource_ids=[model]
    )
    async with internal_channel(mesh.config.registry.address) as to_registry:
        announcer = Announcer(to_registry, named("dead"), address, lambda: [report])
        async with announced(announcer), asyncio.timeout(20):
            await announcer.wait_registered()
            yield


async def check_strangers_get_nothing(mesh: Mesh, squat: Squat, shape: str) -> None:
    calls = [mesh.client.start(shape, api.request(squat.model, messages=1)) for _ in range(20)]
    assert await asyncio.gather(*map(api.ended, calls)) == [grpc.StatusCode.OK] * 20
    assert len(squat.rightful.seen) == 20
    assert squat.stranger.seen == []


@pytest.mark.parametrize("shape", ["unary", "server_stream"])
async def test_a_stranger_at_an_instances_address_gets_nothing(mesh: Mesh, shape: str):
    async with squatted(mesh) as squat:
        await check_strangers_get_nothing(mesh, squat, shape)


@pytest.mark.parametrize("shape", ["unary", "server_stream"])
async def test_check_fails_where_it_is_not_looked_whom_a_call_is_meant_for(mesh: Mesh, shape: str):
    async with squatted(mesh, Credulous) as squat:
        with pytest.raises(AssertionError):
            await check_strangers_get_nothing(mesh, squat, shape)


@pytest.mark.parametrize("shape", ["client_stream", "bidi"])
async def test_a_stranger_gets_no_stream_of_requests(mesh: Mesh, shape: str):
    """What was read of the client's cannot be sent twice, so one call fails, and the others avoid the stranger."""
    async with squatted(mesh) as squat:
        codes = [await api.ended(getattr(mesh.client, shape)(iter([api.request(squat.model)] * 3))) for _ in range(20)]
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert codes.count(grpc.StatusCode.UNAVAILABLE) < 10
        assert squat.stranger.seen == []


async def test_nobody_but_a_stranger_is_unavailable_and_registers_nothing(mesh: Mesh):
    provider, model, other = named("reused"), named("model"), named("other")
    stranger = Backend(named("stranger"), {provider: [model, other]})
    async with stranger.running(None):
        async with mesh.joined(named("rightful"), provider, model):
            await mesh.register(model, provider_id=provider)
        async with remembered(mesh, provider, model, stranger.address):
            await known(mesh, provider, 1)
            for shape in ("unary", "server_stream"):
                call = mesh.client.start(shape, api.request(model, messages=1))
                assert await api.ended(call) is grpc.StatusCode.UNAVAILABLE
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await mesh.register(other, provider_id=provider)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert stranger.seen == []
