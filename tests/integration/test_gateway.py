"""The gateway on real sockets: in front of a registry that can be played with, and in front of the real mesh."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import pytest
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from gateway import server
from registry_service import server as registry_server
from services.inference import server as inference_server
from stackmesh.common.v1 import content_pb2
from stackmesh.config import Config, parse
from stackmesh.errors import (
    BackendUnreachable,
    InvalidField,
    InvalidPageToken,
    InvalidProviderData,
    InvalidRoute,
    MeshError,
    NotServing,
    RegistryUnreachable,
    ResourceNotFound,
    from_rpc_error,
)
from stackmesh.headers import PROVIDER_DATA, PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, REVISION, ROUTE, SERVED_BY
from stackmesh.inference.v1 import inference_service_pb2 as inference
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from stackmesh.inspect.v1 import inspect_service_pb2 as inspect_pb
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub
from stackmesh.registry.v1 import models_service_pb2
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.transport import CLIENT_CHANNEL, MESSAGE_LIMIT
from tests.fakes.h2_peer import REFUSED_STREAM, Misbehaviour, Peer, goaway, hang_up, reset
from tests.fakes.watch_server import WatchServer
from tests.ports import free_port
from tests.unit.gateway.known import instance, model, provider

SERVICE = "stackmesh.inference.v1.InferenceService"
CHAT, EMBEDDINGS = f"/{SERVICE}/ChatCompletion", f"/{SERVICE}/Embeddings"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def configuration(registry: str, *, snapshot_file: object = None, **more: object) -> Config:
    file = None if snapshot_file is None else str(snapshot_file)
    gateway = {"address": "127.0.0.1:0", "snapshot_file": file}
    tree = {"version": 1, "registry": {"address": registry}, "gateway": gateway, **more}
    return parse(yaml.safe_dump(tree), {}, "the test's mesh")


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 -- it is asked over the wire
            await asyncio.sleep(0.01)


async def failed(call: Awaitable[object]) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


@dataclass
class Backend:
    """Answers everything with its name, and keeps the metadata of each call."""

    name: str
    seen: list[dict[str, str | bytes]] = field(default_factory=list)

    async def _answer(self, request: bytes, context) -> bytes:
        self.seen.append(dict(context.invocation_metadata()))
        return b""

    @asynccontextmanager
    async def listening(self):
        backend = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, handler_call_details):
                return grpc.unary_unary_rpc_method_handler(backend._answer)

        it = grpc.aio.server()
        it.add_generic_rpc_handlers((Handler(),))
        port = it.add_insecure_port("127.0.0.1:0")
        await it.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await it.stop(None)


@dataclass
class Front:
    """A gateway before a registry whose entries the test writes."""

    watch: WatchServer
    channel: grpc.aio.Channel
    gateway: server.Gateway

    @property
    def inference(self) -> InferenceServiceStub:
        return InferenceServiceStub(self.channel)

    @property
    def inspect(self) -> InspectServiceStub:
        return InspectServiceStub(self.channel)

    async def health(self, service: str) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status

    async def ask(self, name: str = "m", path: str = EMBEDDINGS, **options) -> grpc.aio.UnaryUnaryCall:
        request = inference.EmbeddingsRequest(model_id=name).SerializeToString()
        call = self.channel.unary_unary(path)(request, timeout=10, **options)
        await call
        return call


@asynccontextmanager
async def fronting(config: Config, watch: WatchServer):
    async with (
        server.running(config) as gateway,
        grpc.aio.insecure_channel(gateway.address, options=CLIENT_CHANNEL) as channel,
    ):
        yield Front(watch, channel, gateway)


@pytest.fixture
async def front():
    watch = WatchServer()
    async with watch.serving() as address, fronting(configuration(address), watch) as front:
        await front.gateway.view.changed(None)
        yield front


async def test_bad_input_gets_a_clear_error(front: Front):
    for entry in (
        model("m"),
        model("cold", "p", "cold"),
        provider("p", "m"),
        instance("i", "p", address="127.0.0.1:1"),
    ):
        front.watch._write(entry)
    await caught_up(front)
    chat = front.inference.ChatCompletion
    for name, error, words in (
        ("unknown", ResourceNotFound, "no model is called 'unknown'; served now, there are: m"),
        ("cold", NotServing, "registered but not served now: the provider p does not serve cold now"),
        ("", InvalidField, "model_id is empty"),
        ("x" * 10_240, InvalidField, "model_id is 10240 characters long, at most 255 are allowed"),
        ("a b", InvalidField, "model_id may hold letters"),
    ):
        told = await failed(chat(inference.ChatCompletionRequest(model_id=name), timeout=5))
        assert isinstance(told, error), told
        assert words in told.message
    told = await failed(front.channel.unary_unary(CHAT)(b"\xff\xff", timeout=5))
    assert isinstance(told, InvalidRoute)


@pytest.mark.parametrize(
    "path",
    [
        f"{SERVICE}/Embeddings",
        f"//{SERVICE}/Embeddings",
        f"/{SERVICE}/../{SERVICE}/Embeddings",
        f"/{SERVICE}/Embeddings?x=1",
        f"/{SERVICE}/Embeddings/",
        f"/{SERVICE}/embeddings",
        f"/{SERVICE}/Nothing",
        "/stackmesh.provider.v1.ProviderService/ListServed",
        "/stackmesh.registry.v1.AnnounceService/Announce",
        "/stackmesh.registry.v1.WatchService/GetRevision",
        "/",
        "",
    ],
)
async def test_what_is_not_listed_is_unimplemented(front: Front, path: str):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await front.ask(path=path)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_oversize_message_harms_nobody_else(front: Front):
    async with Backend("b").listening() as address:
        await serve(front, address)
        big = inference.EmbeddingsRequest(model_id="m").SerializeToString() + bytes(MESSAGE_LIMIT)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await front.channel.unary_unary(EMBEDDINGS)(big, timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (caught.value.details() or "")
        await front.ask()


async def serve(front: Front, *addresses: str) -> None:
    """Every address is an instance that serves the model m, and the gateway knows it."""
    front.watch._write(provider("p", "m", "theirs"))
    front.watch._write(model("m", "p", "theirs"))
    for number, address in enumerate(addresses):
        front.watch._write(instance(f"i{number}", "p", address=address))
    await caught_up(front)


async def caught_up(front: Front) -> None:
    snapshot = None
    async with asyncio.timeout(10):
        while snapshot is None or snapshot.revision < front.watch.revision:
            snapshot = await front.gateway.view.changed(snapshot)


async def test_headers_are_the_gateways_own(front: Front):
    backend = Backend("b")
    async with backend.listening() as address:
        await serve(front, address)
        spoofed = tuple((key, "spoofed") for key in (PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, SERVED_BY, REVISION))
        call = await front.ask(metadata=(*spoofed, ("x-mine", "1"), (ROUTE, "model=m")), name="not-read")
        seen = backend.seen[-1]
        assert [seen.get(k) for k in (PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE)] == ["p", "theirs", "m"]
        assert SERVED_BY not in seen
        assert seen["x-mine"] == "1"
        said = dict(await call.trailing_metadata())
        assert (said[SERVED_BY], said[REVISION]) == ("i0", str(front.watch.revision))
        for metadata, error in (
            (((ROUTE, "shield=m"),), InvalidRoute),
            (((ROUTE, "model=%zz"),), InvalidRoute),
            (((PROVIDER_DATA, "secret"),), InvalidProviderData),
        ):
            told = await failed(front.ask(metadata=metadata))
            assert isinstance(told, error)
            assert "secret" not in told.message


async def answered_around(front: Front, path: str, misbehaviour: Misbehaviour | None) -> tuple[int, int]:
    """Six calls of a method, one instance misbehaving and one good: how many were answered, and of how many tries."""
    peer, good = Peer(misbehaviour), Backend("good")
    async with peer.listening() as bad_address, good.listening() as address:
        await serve(front, bad_address, address)
        calls = await asyncio.gather(*(front.ask(path=path) for _ in range(6)), return_exceptions=True)
        for call in calls:
            if isinstance(call, grpc.aio.AioRpcError):
                assert isinstance(from_rpc_error(call), BackendUnreachable)
        answered = [call for call in calls if not isinstance(call, BaseException)]
        assert len(answered) == len(good.seen)
        return len(answered), peer.calls + len(good.seen)


@pytest.mark.parametrize("path", [CHAT, EMBEDDINGS])
@pytest.mark.parametrize(
    "misbehaviour", [None, reset(REFUSED_STREAM), goaway(0)], ids=["closes", "refuses", "goes away"]
)
async def test_what_was_never_processed_is_tried_elsewhere(front: Front, path: str, misbehaviour):
    answered, _ = await answered_around(front, path, misbehaviour)
    assert answered == 6


async def test_what_may_have_been_processed_is_not_tried_again(front: Front):
    answered, tries = await answered_around(front, CHAT, hang_up)
    assert answered < 6
    assert tries <= 6


async def test_control_a_second_try_is_noticed(front: Front):
    answered, tries = await answered_around(front, EMBEDDINGS, hang_up)  # idempotent: may happen twice
    assert answered == 6
    assert tries > 6


async def test_an_instance_that_fails_is_ejected(front: Front):
    async with Backend("good").listening() as address:
        await serve(front, f"127.0.0.1:{free_port()}", address)
        for _ in range(4):
            await front.ask(path=CHAT)
        (info,) = (await front.inspect.ListProviders(inspect_pb.ListProvidersRequest())).providers
        assert {i.instance_id: i.ejected for i in info.instances} == {"i0": True, "i1": False}


async def test_with_nobody_else_the_instance_is_named(front: Front):
    await serve(front, f"127.0.0.1:{free_port()}")
    told = await failed(front.ask(path=CHAT))
    assert isinstance(told, BackendUnreachable)
    assert "instance i0 at 127.0.0.1" in told.message


async def test_a_name_is_found_as_soon_as_it_is_registered(front: Front):
    async with Backend("b").listening() as address:
        await serve(front, address)
        for i in range(20):
            front.watch._write(model(f"new-{i}", "p", "theirs"))
            await front.ask(name=f"new-{i}")


async def test_a_name_that_cannot_be_settled_is_not_called_unknown():
    watch = WatchServer()
    async with AsyncExitStack() as stack:
        registry = AsyncExitStack()
        address = await registry.enter_async_context(watch.serving(f"127.0.0.1:{free_port()}"))
        front = await stack.enter_async_context(fronting(configuration(address), watch))
        async with Backend("b").listening() as backend:
            await serve(front, backend)
            await front.ask()
            await registry.aclose()
            assert isinstance(await failed(front.ask(name="unknown")), RegistryUnreachable)
            await front.ask()  # what is known is routed as before
            models = ModelsServiceStub(front.channel)
            told = await failed(models.ListModels(models_service_pb2.ListModelsRequest(), timeout=5))
            assert isinstance(told, RegistryUnreachable)


async def test_it_starts_without_a_registry():
    watch, address = WatchServer(), f"127.0.0.1:{free_port()}"
    async with fronting(configuration(address), watch) as front:
        assert await front.health("") == NOT_SERVING
        assert isinstance(await failed(front.ask()), RegistryUnreachable)
        health = await front.inspect.GetHealth(inspect_pb.GetHealthRequest())
        assert health.status == inspect_pb.HEALTH_STATUS_UNAVAILABLE
        async with watch.serving(address), Backend("b").listening() as backend:
            await serve(front, backend)

            async def whole() -> bool:
                return await front.health("") == await front.health(SERVICE) == SERVING

            await until(whole)
            await front.ask()


async def test_health_follows_the_instances(front: Front):
    await until(lambda: serving(front, ""))
    for service in ("stackmesh.registry.v1.ModelsService", "stackmesh.inspect.v1.InspectService"):
        assert await serving(front, service)
    assert not await serving(front, SERVICE)
    await serve(front, "127.0.0.1:1")
    await until(lambda: serving(front, SERVICE))
    front.watch._write(type(instance("i0"))(key="instance/i0"))

    async def lost() -> bool:
        return not await serving(front, SERVICE)

    await until(lost)


async def serving(front: Front, service: str) -> bool:
    return await front.health(service) == SERVING


async def test_reflection_shows_what_can_be_reached(front: Front):
    with grpc.insecure_channel(front.gateway.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = await asyncio.to_thread(database.get_services)
        pool = DescriptorPool(database)
        found = await asyncio.to_thread(pool.FindServiceByName, SERVICE)
        health = await asyncio.to_thread(pool.FindServiceByName, "grpc.health.v1.Health")
    assert found.methods_by_name["ChatCompletion"].input_type.fields_by_name["model_id"].number
    assert health.methods_by_name["Check"].output_type.name == "HealthCheckResponse"
    assert SERVICE in services
    assert "stackmesh.provider.v1.ProviderService" not in services
    assert "stackmesh.registry.v1.AnnounceService" not in services


async def test_inspect_lists_routes_by_pages(front: Front):
    await serve(front, "127.0.0.1:1")
    for i in range(6):
        front.watch._write(model(f"n{i}", "p", "theirs" if i % 2 else "else"))
    await caught_up(front)
    routes, token = [], ""
    while True:
        page = await front.inspect.ListRoutes(inspect_pb.ListRoutesRequest(page_size=3, page_token=token))
        routes.extend(page.routes)
        if not (token := page.next_page_token):
            break
    assert [r.identifier for r in routes] == ["m", *(f"n{i}" for i in range(6))]
    assert [list(r.addresses) for r in routes[:2]] == [["127.0.0.1:1"], []]
    assert "does not serve else now" in routes[1].serving_reason
    first = await front.inspect.ListRoutes(inspect_pb.ListRoutesRequest(page_size=3))
    for token in ("nonsense", first.next_page_token[:-4], "cm91dGVzOjE6MTptMQ=="):
        request = inspect_pb.ListRoutesRequest(page_token=token)
        assert isinstance(await failed(front.inspect.ListRoutes(request)), InvalidPageToken)
    methods = (await front.inspect.ListMethods(inspect_pb.ListMethodsRequest())).methods
    assert {m.path: list(m.provider_types) for m in methods}[CHAT] == ["inline::x"]
    assert (await front.inspect.GetVersion(inspect_pb.GetVersionRequest())).stackmesh
    health = await front.inspect.GetHealth(inspect_pb.GetHealthRequest())
    assert (health.status, health.snapshot_revision) == (inspect_pb.HEALTH_STATUS_OK, front.watch.revision)


@pytest.mark.parametrize("number", [99, -1])
async def test_inspect_refuses_what_is_no_type_and_no_api(front: Front, number: int):
    """An answer without anything would say that there is such a type, and nothing of it."""
    await serve(front, "127.0.0.1:1")
    types = "RESOURCE_TYPE_MODEL, RESOURCE_TYPE_SHIELD, RESOURCE_TYPE_MEMORY_BANK, RESOURCE_TYPE_AGENT"
    apis = "API_INFERENCE, API_SAFETY, API_MEMORY, API_AGENTS"
    for call, name, known in (
        (front.inspect.ListRoutes(inspect_pb.ListRoutesRequest(resource_type=number)), "resource_type", types),
        (front.inspect.ListProviders(inspect_pb.ListProvidersRequest(api=number)), "api", apis),
    ):
        told = await failed(call)
        assert isinstance(told, InvalidField)
        assert (told.field, told.description) == (name, f"has no value {number}; there are: {known}")
    routes = await front.inspect.ListRoutes(inspect_pb.ListRoutesRequest(resource_type=1))
    assert [route.identifier for route in routes.routes] == ["m"]
    assert not (await front.inspect.ListRoutes(inspect_pb.ListRoutesRequest(resource_type=2))).routes
    listed = await front.inspect.ListProviders(inspect_pb.ListProvidersRequest(api=1))
    assert [info.provider.provider_id for info in listed.providers] == ["p"]
    assert not (await front.inspect.ListProviders(inspect_pb.ListProvidersRequest(api=2))).providers


async def test_a_model_registered_through_the_gateway_answers_the_next_call(tmp_path):
    """The whole mesh: registry, inference service and gateway, with nothing faked."""
    config = configuration(
        f"127.0.0.1:{free_port()}",
        providers={
            "inference": [
                {"provider_id": "a", "provider_type": "inline::echo", "config": {"models": ["one", "two"]}},
                {"provider_id": "b", "provider_type": "inline::echo", "config": {"models": ["three", "four"]}},
            ]
        },
        models=[{"model_id": "one"}],
    )
    config = config.model_copy(
        update={"registry": config.registry.model_copy(update={"store": f"sqlite:///{tmp_path}/r.db"})}
    )
    async with (
        registry_server.running(config),
        inference_server.running(config),
        fronting(config, WatchServer()) as front,
    ):
        async with asyncio.timeout(20):
            await until(lambda: says(front, "one", "one"), 20)
            models = ModelsServiceStub(front.channel)
            for theirs in ("two", "three", "four"):
                mine = f"mine/{theirs}"
                request = models_service_pb2.RegisterModelRequest(model_id=mine, provider_model_id=theirs)
                await models.RegisterModel(request, timeout=5)
                assert await says(front, mine, theirs)


async def says(front: Front, name: str, expected: str) -> bool:
    """Whether the model answers, by the provider's own name for it."""
    content = content_pb2.Content(items=[content_pb2.ContentItem(text="who are you?")])
    try:
        answer = await front.inference.Completion(
            inference.CompletionRequest(model_id=name, content=content), timeout=5
        )
    except grpc.aio.AioRpcError:
        return False
    return expected in answer.content
