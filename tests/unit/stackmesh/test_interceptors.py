"""Nothing undecided leaves a server, and nothing unrouted enters one."""

import asyncio
import logging

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from stackmesh import calls, errors, headers, routes
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    InferenceServiceStub,
    add_InferenceServiceServicer_to_server,
)
from stackmesh.interceptors import Errors, Routed
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel

ROUTED = (
    (headers.PROVIDER_ID, "p"),
    (headers.PROVIDER_RESOURCE_ID, "own/name"),
    (headers.RESOURCE, "m"),
    (headers.REQUEST_ID, "r-1"),
)


class Service(InferenceServiceServicer):
    """Does what the test tells it to."""

    def __init__(self):
        self.failure = None
        self.seen = None
        self.ended = asyncio.Event()
        self.flood = ""
        self.drained = asyncio.Event()

    async def Completion(self, request, context):
        self.seen = calls.current()
        if self.failure is not None:
            raise self.failure
        return pb.CompletionResponse(content=request.model_id)

    async def StreamCompletion(self, request, context):
        self.seen = calls.current()
        try:
            yield pb.StreamCompletionResponse(delta="a")
            while self.flood:
                yield pb.StreamCompletionResponse(delta=self.flood)
            if self.failure is not None:
                raise self.failure
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.set()
            raise
        finally:
            self.drained.set()

    ChatCompletion = StreamChatCompletion = Embeddings = Completion


@pytest.fixture
async def service():
    return Service()


@pytest.fixture
async def channel(service):
    def add(server):
        add_InferenceServiceServicer_to_server(service, server)

    interceptors = [Errors(), Routed(routes.load(routes.bundled()), "i-1")]
    async with listening(
        "127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add, interceptors=interceptors, drain_seconds=0
    ) as listener:
        async with internal_channel(listener.address) as channel:
            yield channel


@pytest.fixture
async def stub(channel):
    return InferenceServiceStub(channel)


async def failing(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc_error(caught.value)


REQUEST = pb.CompletionRequest(model_id="m")


async def test_the_resolved_route_is_known_inside(stub, service):
    assert (await stub.Completion(REQUEST, metadata=ROUTED)).content == "m"
    assert service.seen == calls.Call("p", "own/name", "m", "r-1", "")


@pytest.mark.parametrize("missing", [headers.PROVIDER_ID, headers.PROVIDER_RESOURCE_ID, headers.RESOURCE])
async def test_a_call_without_the_gateways_headers_is_refused(stub, service, missing):
    error = await failing(stub.Completion(REQUEST, metadata=[kv for kv in ROUTED if kv[0] != missing]))
    assert type(error) is errors.InvalidRoute
    assert service.seen is None


async def test_a_body_that_disagrees_is_refused(stub, service):
    error = await failing(stub.Completion(pb.CompletionRequest(model_id="other"), metadata=ROUTED))
    assert type(error) is errors.InvalidRoute
    assert service.seen is None


async def test_a_call_that_is_bound_to_this_instance_is_accepted(stub, service):
    await stub.Completion(REQUEST, metadata=(*ROUTED, (headers.INSTANCE_ID, "i-1")))
    assert service.seen is not None


@pytest.mark.parametrize("raw", [REQUEST.SerializeToString(), b"\xff"], ids=["", "not even parsed"])
async def test_a_call_that_is_bound_to_another_instance_is_refused(channel, service, raw):
    metadata = (*ROUTED, (headers.INSTANCE_ID, "i-2"))
    prefix = "/stackmesh.inference.v1.InferenceService"
    for call in (
        channel.unary_unary(f"{prefix}/Completion")(raw, metadata=metadata),
        anext(aiter(channel.unary_stream(f"{prefix}/StreamCompletion")(raw, metadata=metadata))),
    ):
        assert type(await failing(call)) is errors.WrongInstance
    assert service.seen is None


async def test_a_decided_error_arrives_as_itself(stub, service):
    service.failure = errors.QueueFull("the queue is full", retry_after=2)
    error = await failing(stub.Completion(REQUEST, metadata=ROUTED))
    assert type(error) is errors.QueueFull
    assert error.retry_after == 2


async def test_an_undecided_error_says_nothing_but_the_request_id(stub, service, caplog):
    service.failure = ValueError("key=sk-SECRET at /srv/db.sqlite")
    error = await failing(stub.Completion(REQUEST, metadata=ROUTED))
    assert type(error) is errors.Internal
    assert "SECRET" not in error.message
    assert "r-1" in error.message
    assert [r.levelno for r in caplog.records if r.name == "stackmesh.interceptors"] == [logging.ERROR]


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"\x0a\x02\xff\xfe"], ids=["damaged", "not UTF-8"])
@pytest.mark.parametrize("guarded", [True, False], ids=["", "control"])
async def test_a_request_that_cannot_be_parsed_is_the_callers_mistake(service, raw, guarded):
    def add(server):
        add_InferenceServiceServicer_to_server(service, server)

    interceptors = [Errors()] if guarded else []
    async with (
        listening("127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add, interceptors=interceptors) as listener,
        internal_channel(listener.address) as channel,
    ):
        prefix = "/stackmesh.inference.v1.InferenceService"
        for call in (
            channel.unary_unary(f"{prefix}/Completion")(raw),
            anext(aiter(channel.unary_stream(f"{prefix}/StreamCompletion")(raw))),
        ):
            error = await failing(call)
            assert (type(error) is errors.InvalidArgument) is guarded
            assert ("protobuf" not in error.message) is guarded
    assert service.seen is None


@pytest.mark.parametrize("guarded", [True, False], ids=["twice", "once"])
async def test_a_health_check_that_cannot_be_parsed_is_the_callers_mistake(guarded, caplog):
    interceptors = [Errors()] if guarded else []
    async with (
        listening(
            "127.0.0.1:0", options=INTERNAL_LISTENER, add_services=lambda _: None, interceptors=interceptors
        ) as listener,
        internal_channel(listener.address) as channel,
    ):
        error = await failing(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
    assert type(error) is errors.InvalidArgument
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_control_bare_health_takes_it_for_a_failure_of_its_own():
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with internal_channel(f"127.0.0.1:{port}") as channel:
        error = await failing(channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff"))
    await server.stop(None)
    assert type(error) is errors.Internal


async def test_a_stream_of_requests_that_cannot_be_parsed_is_the_callers_mistake():
    async def count(requests, context):
        return pb.CompletionResponse(content=str(len([request async for request in requests])))

    handler = grpc.stream_unary_rpc_method_handler(
        count, pb.CompletionRequest.FromString, pb.CompletionResponse.SerializeToString
    )

    def add(server):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Counting", {"Count": handler}),))

    async with (
        listening("127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add, interceptors=[Errors()]) as listener,
        internal_channel(listener.address) as channel,
    ):
        call = channel.stream_unary("/test.Counting/Count", response_deserializer=pb.CompletionResponse.FromString)
        assert (await call(iter([b"", b""]))).content == "2"
        assert type(await failing(call(iter([b"", b"\xff"])))) is errors.InvalidArgument


async def test_a_timeout_is_a_deadline(stub, service):
    service.failure = TimeoutError()
    assert type(await failing(stub.Completion(REQUEST, metadata=ROUTED))) is errors.Timeout


async def test_an_error_in_the_middle_of_a_stream(stub, service):
    service.failure = errors.BackendUnreachable("gone")
    call = stub.StreamCompletion(REQUEST, metadata=ROUTED)
    assert (await call.read()).delta == "a"
    assert type(await failing(call.read())) is errors.BackendUnreachable


async def test_a_cancelled_stream_is_cancelled_inside(stub, service):
    call = stub.StreamCompletion(REQUEST, metadata=ROUTED)
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        await service.ended.wait()


async def test_a_client_that_leaves_during_a_write_is_no_error(stub, service, caplog):
    service.flood = "x" * 100_000
    for _ in range(40):
        service.drained.clear()
        call = stub.StreamCompletion(REQUEST, metadata=ROUTED)
        await call.read()
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await service.drained.wait()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_calls_do_not_see_each_others_data(stub, service):
    async def one(number):
        metadata = [*ROUTED[:2], (headers.RESOURCE, f"m{number}"), (headers.PROVIDER_DATA, f'{{"n": {number}}}')]
        call = stub.StreamCompletion(pb.CompletionRequest(model_id=f"m{number}"), metadata=metadata)
        await call.read()
        seen = service.seen
        call.cancel()
        return seen.resource, seen.provider_data

    for number in range(5):
        assert await one(number) == (f"m{number}", f'{{"n": {number}}}')
    await stub.Completion(REQUEST, metadata=ROUTED)
    assert service.seen.provider_data is None


def test_provider_data_is_not_in_a_calls_repr():
    assert "sk-SECRET" not in repr(calls.Call("p", "", "m", "", "", '{"key": "sk-SECRET"}'))
