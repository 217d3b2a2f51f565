"""The gateway through outages of the registry, with few files, and before several replicas: real processes."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
import yaml

from gateway import server
from stackmesh.config import Config, parse
from stackmesh.errors import RegistryUnreachable, ResourceNotFound, from_rpc_error
from stackmesh.inference.v1 import inference_service_pb2 as inference
from stackmesh.inspect.v1 import inspect_service_pb2 as inspect_pb
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub
from stackmesh.registry.v1 import resources_pb2 as rows, watch_service_pb2 as watch_pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.resources import KINDS, api_word
from stackmesh.transport import CLIENT_CHANNEL
from tests.fakes.watch_server import WatchServer
from tests.ports import free_port
from tests.unit.gateway.known import gone, instance, model, provider
from tests.waiting import until

ROOT = Path(__file__).parents[2]
EMBEDDINGS = "/stackmesh.inference.v1.InferenceService/Embeddings"
HEALTH = inspect_pb.GetHealthRequest()


def configuration(registry: str, **options: object) -> Config:
    gateway = {"address": f"127.0.0.1:{free_port()}", "snapshot_file": None, **options}
    tree = {"version": 1, "registry": {"address": registry, "listen": "127.0.0.1:1"}, "gateway": gateway}
    return parse(yaml.safe_dump(tree), {}, "the test's mesh")


class Front:
    """A client's channel to a gateway."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.inspect = InspectServiceStub(channel)

    async def ask(self, name: str) -> None:
        request = inference.EmbeddingsRequest(model_id=name).SerializeToString()
        await self.channel.unary_unary(EMBEDDINGS)(request, timeout=10)

    async def answers(self, name: str) -> bool:
        try:
            await self.ask(name)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def error(self, name: str):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.ask(name)
        return from_rpc_error(caught.value)

    async def health(self) -> inspect_pb.GetHealthResponse:
        return await self.inspect.GetHealth(HEALTH, timeout=5)


@asynccontextmanager
async def connected(address: str):
    options = (*CLIENT_CHANNEL, ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Front(channel)


@asynccontextmanager
async def in_process(config: Config):
    async with server.running(config), connected(config.gateway.address) as front:
        yield front


@asynccontextmanager
async def own_process(config: Config, folder: Path, *, files: int = 0):
    """A gateway as it is run, with a limit of open files if there shall be one."""
    path = folder / "mesh.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    limit = f"ulimit -n {files}; " if files else ""
    command = f'{limit}exec "{sys.executable}" -m gateway --config "{path}"'
    with (folder / "gateway.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec("sh", "-c", command, cwd=ROOT, stdin=PIPE, stderr=log)
    try:
        async with connected(config.gateway.address) as front:
            yield front
    finally:
        process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@asynccontextmanager
async def backend(host: str = "127.0.0.1"):
    """Answers everything. Gives its port."""

    async def answer(request: bytes, context) -> bytes:
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, handler_call_details):
            return grpc.unary_unary_rpc_method_handler(answer)

    it = grpc.aio.server()
    it.add_generic_rpc_handlers((Handler(),))
    port = it.add_insecure_port(f"{host}:0")
    await it.start()
    try:
        yield port
    finally:
        await it.stop(None)


def write(watch: WatchServer, *entries: watch_pb.Entry) -> None:
    for entry in entries:
        watch._write(entry)


async def restarted_without_a_registry(folder: Path, snapshot_file: str | None) -> float | None:
    """Seconds until a gateway that was restarted meanwhile answers a known name; None: it does not within 5 s."""
    registry, watch = f"127.0.0.1:{free_port()}", WatchServer()
    config = configuration(registry, snapshot_file=snapshot_file)
    async with backend() as port:
        write(watch, provider("p", "m", "late"), model("m"), instance("i", "p", address=f"127.0.0.1:{port}"))
        async with watch.serving(registry), own_process(config, folder) as front:
            await until(lambda: front.answers("m"), 20)
        began = time.monotonic()
        async with own_process(config, folder) as front:
            try:
                await until(lambda: front.answers("m"), 5)
            except TimeoutError:
                return None
            took = time.monotonic() - began
            health = await front.health()
            assert (health.snapshot_from_file, health.snapshot_stale) == (True, True)
            assert (health.status, health.store_id) == (inspect_pb.HEALTH_STATUS_DEGRADED, "one")
            assert isinstance(await front.error("unknown"), RegistryUnreachable)
            write(watch, gone(model("m")), model("late"))
            async with watch.serving(registry):
                await until(lambda: front.answers("late"), 20)
                assert isinstance(await front.error("m"), ResourceNotFound)
                health = await front.health()
                assert (health.snapshot_from_file, health.snapshot_stale) == (False, False)
                assert health.status == inspect_pb.HEALTH_STATUS_OK
        return took


async def test_restarted_without_a_registry_it_serves_what_was_known(tmp_path):
    took = await restarted_without_a_registry(tmp_path, str(tmp_path / "gateway.snapshot"))
    assert took is not None
    assert took < 5


async def test_control_without_its_file_it_serves_nothing(tmp_path):
    assert await restarted_without_a_registry(tmp_path, None) is None


async def test_a_silent_registry_is_told_and_what_it_forgot_meanwhile_is_kept():
    watch = WatchServer()
    metrics = f"127.0.0.1:{free_port()}"
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(backend())
        address = await stack.enter_async_context(watch.serving())
        write(watch, provider("p", "m"), model("m"), instance("i", "p", address=f"127.0.0.1:{port}"))
        front = await stack.enter_async_context(in_process(configuration(address, metrics_address=metrics)))
        await until(lambda: front.answers("m"))
        assert not (await front.health()).snapshot_stale
        assert "stackmesh_snapshot_stale 0.0" in await scraped(metrics)
        watch.silent = True
        silent = time.monotonic()
        await until(lambda: is_stale(front), 15)
        assert time.monotonic() - silent < 15
        assert "stackmesh_snapshot_stale 1.0" in await scraped(metrics)
        assert await front.answers("m")
        watch.silent = False
        write(watch, gone(instance("i", "p")), model("later", "p", "m"))
        await until(lambda: front.answers("later"), 15)  # so it has heard that the instance is gone
        assert await front.answers("m")
        assert not (await front.health()).snapshot_stale


async def is_stale(front: Front) -> bool:
    return (await front.health()).snapshot_stale


async def scraped(address: str) -> list[str]:
    def get() -> str:
        with urlopen(f"http://{address}/metrics", timeout=5) as answer:
            return answer.read().decode()

    return (await asyncio.to_thread(get)).splitlines()


async def test_any_replica_of_the_registry_will_do():
    watch = WatchServer()
    dead, live = (f"127.0.0.1:{free_port()}" for _ in range(2))
    config = configuration(f"{dead},{live}")
    async with watch.serving(live), in_process(config) as front:
        write(watch, model("m"))
        entries = WatchServiceStub(front.channel)
        for _ in range(10):
            page = await entries.ListEntries(watch_pb.ListEntriesRequest(page_size=1), timeout=5)
            assert page.entries == [model("m")]
        await until(lambda: reached(front, watch.revision))


async def test_control_a_dead_registry_alone_is_noticed():
    dead = f"127.0.0.1:{free_port()}"
    async with in_process(configuration(dead)) as front:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await WatchServiceStub(front.channel).ListEntries(watch_pb.ListEntriesRequest(), timeout=5)
    assert isinstance(from_rpc_error(caught.value), RegistryUnreachable)


async def reached(front: Front, revision: int) -> bool:
    return (await front.health()).snapshot_revision == revision


INSTANCES = 100


async def with_files(folder: Path, files: int) -> tuple[int, list[str], list[str]]:
    """A hundred instances, each of a model of its own, behind a gateway that may open so many files: how many models
    answer, what the others' errors are, and the problems it tells a client who comes then."""
    watch = WatchServer()
    watch.page_size = 1000
    async with backend("0.0.0.0") as port, watch.serving() as registry:
        for number in range(INSTANCES):
            name = f"n{number:03}"
            address = f"127.0.{number // 50 + 1}.{number % 50 + 1}:{port}"
            write(watch, provider(name, name), model(name, name), instance(name, name, address=address))
        config = configuration(registry)
        async with own_process(config, folder, files=files) as front:
            await until(lambda: front.answers("n000"), 20)
            answered, errors = 0, []
            for number in range(INSTANCES):
                try:
                    await front.ask(f"n{number:03}")
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    errors.append(f"{error.code().name}: {error.details()}")
            async with AsyncExitStack() as stack:
                for _ in range(20):
                    late = await stack.enter_async_context(connected(config.gateway.address))
                    problems = list((await late.health()).problems)
                    await late.ask("n000")
            return answered, errors, problems


async def test_with_too_few_files_it_says_so_and_goes_on(tmp_path):
    answered, errors, problems = await with_files(tmp_path, 200)
    assert answered == 72
    assert len(errors) == INSTANCES - 72
    assert all(error.startswith("RESOURCE_EXHAUSTED: no connection can be opened") for error in errors)
    assert all("open files (RLIMIT_NOFILE)" in error for error in errors)
    told = "100 instances need a connection each, and the limit of 200 open files (RLIMIT_NOFILE) leaves room for 72"
    assert told in problems[0]
    assert told in (tmp_path / "gateway.log").read_text()


async def test_control_with_enough_files_all_answer(tmp_path):
    assert await with_files(tmp_path, 400) == (INSTANCES, [], [])


async def test_inspect_tells_of_every_type_and_bounds_its_problems():
    watch = WatchServer()
    watch.page_size = 1000
    for kind in KINDS.values():
        api, word = kind.api, kind.word
        row = rows.Provider(api=api, provider_id="p", provider_type="inline::x", served=[word])
        write(watch, watch_pb.Entry(key=f"provider/{api_word(api)}/p", provider=row))
        named = kind.message(identifier="same", provider_id="p", provider_resource_id=word)
        write(watch, watch_pb.Entry(key=f"{word}/same", **{word: named}))
    hosts = [rows.HostedProvider(api=kind.api, provider_id="p") for kind in KINDS.values()]
    write(watch, instance("i", *hosts, address="127.0.0.1:1"))
    write(watch, *(provider(f"lonely-{number}") for number in range(200)))
    async with watch.serving() as registry, in_process(configuration(registry)) as front:
        await until(lambda: reached(front, watch.revision))
        routes = (await front.inspect.ListRoutes(inspect_pb.ListRoutesRequest())).routes
        assert [(r.resource_type, r.provider_resource_id, list(r.addresses)) for r in routes] == [
            (kind.resource_type, kind.word, ["127.0.0.1:1"]) for kind in KINDS.values()
        ]
        one = inspect_pb.ListRoutesRequest(resource_type=routes[1].resource_type)
        assert (await front.inspect.ListRoutes(one)).routes == [routes[1]]
        all_of_them = inspect_pb.ListProvidersRequest(page_size=1000)
        listed = (await front.inspect.ListProviders(all_of_them)).providers
        assert {p.provider.api for p in listed if p.instances} == {kind.api for kind in KINDS.values()}
        assert [list(p.provider.served) for p in listed if p.instances] == [[kind.word] for kind in KINDS.values()]
        problems = (await front.health()).problems
        assert len(problems) == 51
        assert problems[-1] == "and 150 more"
