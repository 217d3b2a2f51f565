"""The registry through its public door: a real server on a real store, real instances."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc

from registry_service import server
from registry_service.server import running
from registry_service.sqlite import SqliteStore
from registry_service.store import Put
from stackmesh.config import parse
from stackmesh.errors import (
    AmbiguousProvider,
    BackendUnreachable,
    InvalidField,
    InvalidPageToken,
    MeshError,
    NoInstance,
    NotHosted,
    NotServing,
    ProviderNotFound,
    ResourceExists,
    ResourceNotFound,
    RevisionGone,
    ShuttingDown,
    from_rpc_error,
)
from stackmesh.registry.v1 import (
    models_service_pb2 as models_pb,
    providers_service_pb2 as providers_pb,
    resources_pb2 as pb,
    watch_service_pb2 as watch_pb,
)
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.registry.v1.providers_service_pb2_grpc import ProvidersServiceStub
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.routes import Api
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.waiting import until

LIMIT = 10.0
LLAMA = {"llama": "llama-8b", "llama-8b": "llama-8b", "meta/llama": "llama-8b"}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


class Registry:
    """A client of a running registry."""

    def __init__(self, address, channel):
        self.address = address
        self.channel = channel
        self.models = ModelsServiceStub(channel)
        self.providers = ProvidersServiceStub(channel)
        self.watches = WatchServiceStub(channel)

    async def call(self, method, request):
        try:
            return await method(request, timeout=LIMIT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None

    async def register(self, model_id, **fields):
        if "metadata" in fields:
            metadata = Struct()
            metadata.update(fields.pop("metadata"))
            fields["metadata"] = metadata
        request = models_pb.RegisterModelRequest(model_id=model_id, **fields)
        return (await self.call(self.models.RegisterModel, request)).model

    async def get(self, model_id):
        return (await self.call(self.models.GetModel, models_pb.GetModelRequest(model_id=model_id))).model

    async def state(self, model_id):
        try:
            return (await self.get(model_id)).serving_state
        except ResourceNotFound:
            return None

    async def unregister(self, model_id):
        request = models_pb.UnregisterModelRequest(model_id=model_id)
        return (await self.call(self.models.UnregisterModel, request)).revision

    async def list(self, **fields):
        return await self.call(self.models.ListModels, models_pb.ListModelsRequest(**fields))

    async def provider(self, provider_id, api=Api.API_INFERENCE):
        request = providers_pb.GetProviderRequest(api=api, provider_id=provider_id)
        return (await self.call(self.providers.GetProvider, request)).provider

    async def entries(self, **fields):
        return await self.call(self.watches.ListEntries, watch_pb.ListEntriesRequest(**fields))

    async def instances(self):
        return {e.instance.instance_id: e.instance for e in (await self.entries()).entries if e.HasField("instance")}

    async def revision(self):
        return (await self.call(self.watches.GetRevision, watch_pb.GetRevisionRequest())).revision

    @asynccontextmanager
    async def watch(self, start_revision, store_id=""):
        call = self.watches.Watch(watch_pb.WatchRequest(start_revision=start_revision, store_id=store_id))
        try:
            yield call
        finally:
            call.cancel()

    @asynccontextmanager
    async def instance(self, providers, instance_id=None):
        async with fakes.running(providers, self.address, instance_id) as instance:
            yield instance


def config(text=""):
    return parse(f"version: 1\nregistry: {{address: '127.0.0.1:0'}}\n{text}", {}, "test.yaml")


def yaml(*providers, models=()):
    lines = ["providers:", "  inference:"]
    lines += [f"  - {{provider_id: {p}, provider_type: 'inline::fake'}}" for p in providers]
    lines += ["models:", *(f"- {{{m}}}" for m in models)] if models else []
    return "\n".join(lines)


class Disk:
    """What survives a registry, and the clock its leases live by."""

    def __init__(self, folder):
        self.path = folder / "registry.db"
        self.clock = Clock()

    @asynccontextmanager
    async def registry(self, text=""):
        store = SqliteStore(self.path, clock=self.clock, checkpoint_seconds=0.05, sweep_seconds=0.01)
        async with running(config(text), store) as listener, internal_channel(listener.address) as channel:
            yield Registry(listener.address, channel)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
async def registry(disk):
    async with disk.registry() as registry:
        yield registry


# Registering


async def test_only_the_name_is_needed(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        model = await registry.register("llama")
        assert (model.provider_id, model.provider_resource_id) == ("local", "llama-8b")
        assert (model.source, model.serving_state, model.serving_reason) == (
            pb.SOURCE_USER,
            pb.SERVING_STATE_SERVING,
            "",
        )
        assert model == await registry.get("llama")
        assert instance.providers["local"].asked == ["llama"]


async def test_the_provider_is_the_one_that_recognises_the_name(registry):
    providers = {"a": FakeProvider(LLAMA), "b": FakeProvider({"qwen": "qwen-7b"}), "c": FakeProvider({})}
    async with registry.instance(providers):
        assert (await registry.register("qwen")).provider_id == "b"
        model = await registry.register("mine", provider_model_id="meta/llama", metadata={"team": "x"})
        assert (model.provider_id, model.provider_resource_id, model.metadata["team"]) == ("a", "llama-8b", "x")


async def test_several_candidates_are_listed_and_one_can_be_chosen(registry):
    providers = {"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA), "c": FakeProvider({})}
    async with registry.instance(providers):
        with pytest.raises(AmbiguousProvider, match="a, b; set provider_id") as raised:
            await registry.register("llama")
        assert raised.value.metadata == {"providers": "a, b"}
        assert (await registry.register("llama", provider_id="b")).provider_id == "b"


async def test_refusals_give_each_providers_reason(registry):
    async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider({"qwen": "q"})}):
        with pytest.raises(NotHosted, match="a: a serves: llama, llama-8b, meta/llama; b: b serves: qwen"):
            await registry.register("gpt")
        with pytest.raises(NotHosted, match=r"^b serves: qwen$"):
            await registry.register("gpt", provider_id="b")


async def test_a_dead_provider_does_not_hide_the_one_that_recognises_the_name(disk):
    async with disk.registry(yaml("dead", "live")) as registry:
        async with registry.instance({"live": FakeProvider(LLAMA)}):
            assert (await registry.register("llama")).provider_id == "live"
            with pytest.raises(NoInstance, match="dead: no instance of the provider dead is running; live: live"):
                await registry.register("gpt")


async def test_without_an_instance_there_is_nobody_to_ask(disk):
    async with disk.registry(yaml("local")) as registry:
        with pytest.raises(NoInstance, match="no instance of the provider local is running"):
            await registry.register("llama")


async def test_without_a_provider_the_remedy_is_named(registry):
    with pytest.raises(ProviderNotFound, match="no inference provider; add one to the YAML"):
        await registry.register("llama")


async def test_an_unknown_provider_names_the_nearest(disk):
    async with disk.registry(yaml("together", "ollama")) as registry:
        with pytest.raises(ProviderNotFound, match="no inference provider is called 'togeter'; there are: together, o"):
            await registry.register("llama", provider_id="togeter")


async def test_another_instance_is_asked_when_one_cannot_be_reached(registry):
    gone, alive = FakeProvider(LLAMA), FakeProvider(LLAMA)
    async with registry.instance({"local": gone}, "a-first") as first, registry.instance({"local": alive}, "b-second"):
        await first.announce(registry.channel, address="127.0.0.1:1")  # nobody listens there
        assert (await registry.register("llama")).provider_resource_id == "llama-8b"
        assert (gone.asked, alive.asked) == ([], ["llama"])


async def test_what_a_provider_says_is_passed_on(registry):
    provider = FakeProvider(LLAMA)
    async with registry.instance({"local": provider}) as instance:
        provider.fails = BackendUnreachable("the backend at http://x is down")
        with pytest.raises(BackendUnreachable, match="http://x is down"):
            await registry.register("llama")
        await instance.announce(registry.channel, address="127.0.0.1:1")
        with pytest.raises(BackendUnreachable, match="the provider local cannot be reached"):
            await registry.register("llama")


async def test_a_name_the_provider_may_not_give_is_refused(registry):
    async with registry.instance({"local": FakeProvider({})}) as instance:
        instance.providers["local"].aliases["x"] = "bad%name"
        with pytest.raises(InvalidField, match="provider_resource_id may hold"):
            await registry.register("x")


@pytest.mark.parametrize("field", ["model_id", "provider_model_id", "provider_id"])
@pytest.mark.parametrize("value", ["x" * 10_240, "a b", "a%b", "-a", "ä", "a\n"])
async def test_bad_names_are_refused(registry, field, value):
    with pytest.raises(InvalidField) as raised:
        await registry.register(**{"model_id": "fine", field: value})
    assert raised.value.field == field
    assert len(raised.value.message) < 200
    assert await registry.revision() == 0


async def test_an_empty_name_is_refused_everywhere(registry):
    for method in (registry.register, registry.get, registry.unregister):
        with pytest.raises(InvalidField, match="model_id is empty"):
            await method("")
        with pytest.raises(InvalidField, match="model_id is 10240 characters long"):
            await method("x" * 10_240)


async def test_metadata_has_a_limit(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}):
        with pytest.raises(InvalidField, match=r"metadata takes .* bytes, at most 16384"):
            await registry.register("llama", metadata={"note": "x" * 17_000})
        assert (await registry.register("llama", metadata={"note": "x" * 16_000})).metadata["note"]


async def test_registering_again_is_compared_field_by_field(registry):
    async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider({"llama": "other"})}) as instance:
        model = await registry.register("m", provider_id="a", provider_model_id="llama", metadata={"k": 1})
        revision = await registry.revision()
        for same in (
            {},
            {"provider_id": "a"},
            {"provider_model_id": "llama-8b"},
            {"provider_model_id": "meta/llama"},
            {"metadata": {"k": 1}},
            {"provider_id": "a", "provider_model_id": "llama", "metadata": {"k": 1}},
        ):
            assert await registry.register("m", **same) == model
        for other in (
            {"provider_id": "b"},
            {"provider_model_id": "other"},
            {"metadata": {"k": 2}},
            {"metadata": {}},
        ):
            with pytest.raises(ResourceExists, match="m is already registered, with the provider a as llama-8b"):
                await registry.register("m", **other)
        assert await registry.revision() == revision
        assert await registry.get("m") == model
        instance.providers["a"].fails = BackendUnreachable("down")
        assert await registry.register("m", provider_model_id="llama-8b") == model
        with pytest.raises(BackendUnreachable):
            await registry.register("m", provider_model_id="llama")


async def race(registry, rounds):
    """Two clients register one name with different providers, again and again: exactly one may succeed."""
    for number in range(rounds):

        async def attempt(provider_id, name=f"m{number}"):
            try:
                return await registry.register(name, provider_id=provider_id, provider_model_id="llama")
            except ResourceExists:
                return None

        results = await asyncio.gather(attempt("a"), attempt("b"))
        [won] = [model for model in results if model is not None]
        assert (await registry.get(f"m{number}")).provider_id == won.provider_id


async def test_of_two_registrations_at_once_one_wins(registry):
    async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA)}):
        await race(registry, rounds=30)


class Careless(SqliteStore):
    async def commit(self, ops, *, expect=None):
        return await super().commit(ops)


async def test_the_race_check_finds_a_store_that_does_not_compare(tmp_path):
    async with running(config(), Careless(tmp_path / "careless.db")) as listener:
        async with internal_channel(listener.address) as channel:
            registry = Registry(listener.address, channel)
            async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA)}):
                with pytest.raises((AssertionError, ValueError)):
                    await race(registry, rounds=30)


# Getting, listing, unregistering


async def test_an_unknown_model_names_the_nearest_and_the_total(registry):
    names = [f"llama-{n}" for n in range(8)] + ["qwen"]
    async with registry.instance({"local": FakeProvider({n: n for n in names})}):
        for name in names:
            await registry.register(name)
        with pytest.raises(ResourceNotFound, match="no model is called lama-3; the nearest of 9: llama-3, ") as raised:
            await registry.get("lama-3")
        assert raised.value.message.count("llama-") == 5
        with pytest.raises(ResourceNotFound, match="no model is called lama-3; the nearest of 9: llama-3, "):
            await registry.unregister("lama-3")
        assert raised.value.metadata == {"resource_type": "model"}


async def test_a_not_found_stays_small_whatever_the_names(registry):
    names = [f"{n}" + "x" * 250 for n in range(9)]
    async with registry.instance({"local": FakeProvider({n: n for n in names})}):
        for name in names:
            await registry.register(name)
        with pytest.raises(grpc.aio.AioRpcError, match="the nearest of 9") as raised:
            await registry.models.GetModel(models_pb.GetModelRequest(model_id="y" * 255))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        details = dict(raised.value.trailing_metadata())["grpc-status-details-bin"]
        assert len(raised.value.details() or "") + len(details) < 2048 + 256


async def test_unregistering_frees_the_name(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}):
        await registry.register("llama", metadata={"k": 1})
        revision = await registry.unregister("llama")
        assert revision == await registry.revision()
        with pytest.raises(ResourceNotFound, match="there are none"):
            await registry.get("llama")
        await registry.register("llama", metadata={"k": 2})


async def test_a_list_is_paged_at_one_revision(registry):
    names = [f"m{n}" for n in range(7)]
    async with registry.instance({"local": FakeProvider({n: n for n in [*names, "m00", "zz"]})}) as instance:
        for name in names:
            await registry.register(name)
        page = await registry.list(page_size=3)
        seen, revision = [m.identifier for m in page.models], page.revision
        await registry.register("m00")
        await registry.unregister("m5")
        await instance.say(leave={})
        while page.next_page_token:
            page = await registry.list(page_size=3, page_token=page.next_page_token)
            assert page.revision == revision
            assert {m.serving_state for m in page.models} == {pb.SERVING_STATE_SERVING}
            seen += [m.identifier for m in page.models]
        assert seen == names
        fresh = await registry.list()
        assert [m.identifier for m in fresh.models] == ["m0", "m00", "m1", "m2", "m3", "m4", "m6"]
        assert {m.serving_state for m in fresh.models} == {pb.SERVING_STATE_NOT_SERVING}


async def test_page_tokens_of_others_are_refused(registry):
    async with registry.instance({p: FakeProvider({f"m{p}": "x"}) for p in ("a", "b", "c")}):
        for name in ("ma", "mb", "mc"):
            await registry.register(name)
        tokens = [
            (await registry.list(page_size=1)).next_page_token,
            (await registry.entries(page_size=1)).next_page_token,
            (
                await registry.call(registry.providers.ListProviders, providers_pb.ListProvidersRequest(page_size=1))
            ).next_page_token,
        ]
        assert all(tokens)
        assert (await registry.list(page_token=tokens[0])).models
        bad = [*tokens[1:], "garbage", "ÿ", "AAAA", "x" * 10_000, tokens[0][:-2], "B" + tokens[0][1:]]
        for token in bad:
            with pytest.raises(InvalidPageToken):
                await registry.list(page_token=token)
        with pytest.raises(InvalidPageToken):
            await registry.entries(page_token=tokens[0])
        with pytest.raises(InvalidField, match="page_size is negative"):
            await registry.list(page_size=-1)


async def test_providers_are_listed_by_api_and_id(registry):
    providers = {
        "b": FakeProvider(LLAMA),
        "a": FakeProvider({}, "remote::fake"),
        "s": FakeProvider({}, api=Api.API_SAFETY),
    }
    async with registry.instance(providers):
        listed = (await registry.call(registry.providers.ListProviders, providers_pb.ListProvidersRequest())).providers
        assert [(p.provider_id, p.provider_type) for p in listed] == [
            ("a", "remote::fake"),
            ("b", "inline::fake"),
            ("s", "inline::fake"),
        ]
        assert list((await registry.provider("b")).served) == ["llama-8b"]
        with pytest.raises(ProviderNotFound, match="no inference provider is called s; there are: "):
            await registry.provider("s")
        with pytest.raises(InvalidField, match="api is not one of the APIs"):
            await registry.provider("a", api=0)
        with pytest.raises(InvalidField, match="provider_id is empty"):
            await registry.provider("")


# Announcing


async def test_an_instance_that_leaves_is_gone_and_its_models_stay(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        await registry.register("llama")
        answer = await instance.say(leave={})
        assert answer.revision == await registry.revision()
        assert await registry.instances() == {}
        model = await registry.get("llama")
        assert model.serving_state == pb.SERVING_STATE_NOT_SERVING
        assert model.serving_reason == "no instance of the provider local is running"
        assert list((await registry.provider("local")).served) == ["llama-8b"]


async def test_beats_keep_an_instance_and_make_no_revision(registry, disk):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        revision = await registry.revision()
        for _ in range(5):
            disk.clock.now += 10
            answer = await instance.say(beat={})
            assert (answer.revision, answer.lease_id, answer.ttl.seconds) == (0, instance.lease_id, 15)
        assert await registry.revision() == revision
        disk.clock.now += 20

        async def gone():
            return not await registry.instances()

        await until(gone)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await instance.say(beat={})
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "say hello again" in (raised.value.details() or "")
        old = instance.lease_id
        await instance.announce(registry.channel)
        assert instance.lease_id != old
        assert list(await registry.instances()) == ["i"]


async def test_a_report_after_the_lease_has_ended_ends_the_stream(registry, disk):
    async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        disk.clock.now += 20
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await instance.report("local")
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_silent_stream_is_not_kept(tmp_path):
    text = "version: 1\nregistry: {address: '127.0.0.1:0', lease_ttl: 0.2}"
    async with running(parse(text, {}, "test.yaml"), SqliteStore(tmp_path / "r.db")) as listener:
        async with internal_channel(listener.address) as channel:
            instance = fakes.FakeInstance("127.0.0.1:1", {}, "i")
            await instance.announce(channel)
            with pytest.raises(grpc.aio.AioRpcError, match=r"nothing was heard for 0.2 s"):
                await instance.stream.read()


async def test_a_broken_stream_does_not_end_the_lease(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        lease, revision = instance.lease_id, await registry.revision()
        instance.stream.cancel()
        answer = await instance.announce(registry.channel)
        assert answer.lease_id == lease
        assert answer.revision == revision == await registry.revision()  # nothing new was said
        assert list(await registry.instances()) == ["i"]


async def test_a_lease_moves_to_a_restarted_registry(disk):
    async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
        async with disk.registry() as registry:
            lease = (await instance.announce(registry.channel)).lease_id
            await registry.register("llama")
        disk.clock.now += 100
        async with disk.registry() as registry:
            assert (await registry.get("llama")).serving_state == pb.SERVING_STATE_SERVING
            assert (await instance.announce(registry.channel)).lease_id == lease


async def test_another_process_with_the_same_id_takes_over(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "same") as first:
        async with registry.instance({"local": FakeProvider(LLAMA)}, "same") as second:
            assert first.lease_id != second.lease_id
            assert (await registry.instances())["same"].address == second.address
            with pytest.raises(grpc.aio.AioRpcError):
                await first.say(beat={})
            await second.say(beat={})


async def test_what_is_served_follows_the_reports(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as one:
        await registry.register("llama")
        async with registry.instance({"local": FakeProvider({**LLAMA, "qwen": "q"})}, "j") as two:
            assert list((await registry.provider("local")).served) == ["llama-8b", "q"]
            hosted = {i: x.providers[0] for i, x in (await registry.instances()).items()}
            assert (list(hosted["i"].not_served), list(hosted["j"].not_served)) == (["q"], [])
            one.providers["local"].aliases.clear()
            await one.report("local", problem="the backend is down")
            hosted = {i: x.providers[0] for i, x in (await registry.instances()).items()}
            assert list(hosted["i"].not_served) == ["llama-8b", "q"]
            assert hosted["i"].problem == "the backend is down"
            assert (await registry.get("llama")).serving_state == pb.SERVING_STATE_SERVING
            await two.say(leave={})
        model = await registry.get("llama")
        assert model.serving_state == pb.SERVING_STATE_NOT_SERVING
        assert model.serving_reason == "the provider local does not serve llama-8b now: the backend is down"


async def test_a_hundred_instances_at_once_agree(registry):
    """More hosts than fit into one commit, each with a name of its own."""
    names = {n: f"only-{n}" for n in range(60)}
    hellos = [
        fakes.FakeInstance(f"127.0.0.1:{n + 1}", {"p": FakeProvider({"all": "all", "own": name})}, f"i{n}")
        for n, name in names.items()
    ]
    await asyncio.gather(*(hello.announce(registry.channel) for hello in hellos))
    served = set((await registry.provider("p")).served)
    assert served == {"all", *names.values()}
    for instance in (await registry.instances()).values():
        n = int(instance.instance_id[1:])
        assert served - set(instance.providers[0].not_served) == {"all", names[n]}
    for hello in hellos:
        hello.stream.cancel()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"instance_id": ""}, "instance_id is empty"),
        ({"instance_id": "Upper"}, "instance_id may hold"),
        ({"instance_id": "x" * 10_240}, "instance_id is 10240 characters"),
        ({"address": ""}, "address must be IP:port"),
        ({"address": "localhost:1"}, "address must be IP:port"),
        ({"address": "127.0.0.1"}, "address must be IP:port"),
        ({"address": "127.0.0.1:0"}, "address must be IP:port"),
        ({"address": "127.0.0.1:70000"}, "address must be IP:port"),
        ({"providers": [{"provider_id": "a", "provider_type": "inline::x"}]}, "api is not one of"),
        ({"providers": [{"api": 99, "provider_id": "a", "provider_type": "inline::x"}]}, "api is not one of"),
        ({"providers": [{"api": 1, "provider_id": "A", "provider_type": "inline::x"}]}, "provider_id may hold"),
        ({"providers": [{"api": 1, "provider_id": "a", "provider_type": "x"}]}, "provider_type must be"),
        (
            {"providers": [{"api": 1, "provider_id": "a", "provider_type": "inline::x"}] * 2},
            "providers names a twice",
        ),
        (
            {
                "providers": [
                    {
                        "api": 1,
                        "provider_id": "a",
                        "provider_type": "inline::x",
                        "provider_resource_ids": ["a b"],
                    }
                ]
            },
            "provider_resource_ids may hold",
        ),
        (
            {"providers": [{"api": 1, "provider_id": f"p{n}", "provider_type": "inline::x"} for n in range(49)]},
            "providers has 49 entries, at most 48",
        ),
        (
            {
                "providers": [
                    {
                        "api": 1,
                        "provider_id": "a",
                        "provider_type": "inline::x",
                        "provider_resource_ids": ["a" * 200] * 6000,
                    }
                ]
            },
            "provider_resource_ids take .* bytes",
        ),
    ],
)
async def test_a_bad_hello_is_refused(registry, changed, match):
    instance = fakes.FakeInstance("127.0.0.1:1", {}, "fine")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await instance.announce(registry.channel, **changed)
    with pytest.raises(InvalidField, match=match):
        raise from_rpc_error(raised.value)
    assert await registry.revision() == 0


async def test_hello_comes_first_and_only_first(registry):
    stream = fakes.FakeInstance("127.0.0.1:1", {}, "i")
    await stream.announce(registry.channel)
    with pytest.raises(grpc.aio.AioRpcError, match="hello is the first request of a stream"):
        await stream.say(hello=stream.hello())
    for event in ({"beat": {}}, {}):
        stream.stream = fakes.AnnounceServiceStub(registry.channel).Announce()
        with pytest.raises(grpc.aio.AioRpcError, match="hello is the first request of a stream"):
            await stream.say(**event)


async def test_a_provider_of_another_type_than_the_yamls_is_refused(disk):
    async with disk.registry(yaml("local")) as registry:
        instance = fakes.FakeInstance("127.0.0.1:1", {"local": FakeProvider(LLAMA, "remote::other")}, "i")
        with pytest.raises(grpc.aio.AioRpcError, match="local is inline::fake, this instance says remote::other"):
            await instance.announce(registry.channel)
        assert await registry.instances() == {}


async def test_a_provider_the_yaml_does_not_name_may_change_its_type(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}):
        assert (await registry.provider("local")).source == pb.SOURCE_DISCOVERED
        async with registry.instance({"local": FakeProvider(LLAMA, "remote::other")}):
            assert (await registry.provider("local")).provider_type == "remote::other"


# Watching


async def read(call):
    async with asyncio.timeout(LIMIT):
        try:
            return await call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from None


async def test_list_then_watch_tells_everything(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}, "i") as instance:
        listed = await registry.entries()
        assert [e.key for e in listed.entries] == ["instance/i", "provider/inference/local"]
        async with registry.watch(listed.revision + 1, listed.store_id) as call:
            await registry.register("meta/llama")
            await registry.unregister("meta/llama")
            await instance.say(leave={})
            seen = []
            while len(seen) < 3:
                response = await read(call)
                assert not response.changes or response.revision == response.changes[-1].revision
                seen += response.changes
        assert [c.revision for c in seen] == list(range(listed.revision + 1, listed.revision + 4))
        keys = [(c.entry.key, c.entry.WhichOneof("value")) for c in seen]
        assert keys == [("model/meta/llama", "model"), ("model/meta/llama", None), ("instance/i", None)]
        assert seen[0].entry.model.revision == seen[0].revision
        assert seen[0].entry.model.serving_state == pb.SERVING_STATE_UNSPECIFIED


async def test_a_silent_watch_gives_checkpoints(registry):
    async with registry.watch(1) as call:
        for _ in range(3):
            assert (await read(call)) == watch_pb.WatchResponse(revision=0)


async def test_revisions_that_cannot_be_watched(registry):
    for start, store_id, error in (
        (0, "", InvalidField),
        (-5, "", InvalidField),
        (99, "", RevisionGone),
        (1, "other", RevisionGone),
    ):
        async with registry.watch(start, store_id) as call:
            with pytest.raises(error):
                await read(call)


async def test_a_watch_from_before_the_compaction_has_to_list_again(disk):
    store = SqliteStore(disk.path)
    async with running(config(), store) as listener, internal_channel(listener.address) as channel:
        registry = Registry(listener.address, channel)
        async with registry.instance({"local": FakeProvider(LLAMA)}):
            for _ in range(3):
                await registry.register("llama")
                await registry.unregister("llama")
            compaction = asyncio.create_task(server.compacting(store, kept=2, every=0.01))
            page = await registry.entries(page_size=1)

            async def compacted():
                async with registry.watch(1) as call:
                    try:
                        await read(call)
                    except RevisionGone as error:
                        return error.metadata["compacted_revision"] == str(page.revision - 2)
                    return False

            await until(compacted)
            compaction.cancel()
            assert (await registry.entries(page_size=1, page_token=page.next_page_token)).entries


# Declared


async def test_providers_follow_the_yaml(disk):
    async with disk.registry(yaml("one", "two")) as registry:
        rows = {p: await registry.provider(p) for p in ("one", "two")}
        assert {p: (r.position, r.source) for p, r in rows.items()} == {
            "one": (0, pb.SOURCE_CONFIG),
            "two": (1, pb.SOURCE_CONFIG),
        }
    async with disk.registry(yaml("two", "three")) as registry:
        assert (await registry.provider("two")).position == 0
        assert (await registry.provider("three")).position == 1
        with pytest.raises(ProviderNotFound):
            await registry.provider("one")
        revision = await registry.revision()
    async with disk.registry(yaml("two", "three")) as registry:
        assert await registry.revision() == revision


async def test_a_provider_that_is_no_longer_declared_stays_while_it_is_hosted(disk):
    async with disk.registry(yaml("one", "two")) as registry, registry.instance({"one": FakeProvider(LLAMA)}):
        pass
    async with disk.registry(yaml("two")) as registry:
        row = await registry.provider("one")
        assert row.source == pb.SOURCE_DISCOVERED
        assert row.position > 1
        disk.clock.now += 20

        async def gone():
            return not await registry.instances()

        await until(gone)
        with pytest.raises(NoInstance, match=r"^no instance of the provider two is running$"):
            await registry.register("llama")
    async with disk.registry(yaml("two")) as registry:
        with pytest.raises(ProviderNotFound):
            await registry.provider("one")


async def test_a_declared_model_is_pending_until_its_provider_answers(disk):
    async with disk.registry(yaml("local", models=["model_id: llama"])) as registry:

        async def pending():
            return await registry.state("llama") == pb.SERVING_STATE_PENDING

        await until(pending)
        model = await registry.get("llama")
        assert model.serving_reason == model.pending_reason == "no instance of the provider local is running"
        with pytest.raises(NotServing, match="llama is declared in the YAML and pending: no instance"):
            await registry.register("llama")
        async with registry.instance({"local": FakeProvider(LLAMA)}):
            await until(lambda: serving(registry, "llama"))
            model = await registry.get("llama")
            assert (model.source, model.provider_resource_id, model.pending_reason) == (
                pb.SOURCE_CONFIG,
                "llama-8b",
                "",
            )


async def serving(registry, name):
    return await registry.state(name) == pb.SERVING_STATE_SERVING


async def settled(registry, instance, *reports):
    """The revision once nothing moves any more after a nudge."""
    for provider_id in reports:
        await instance.report(provider_id)
    last, same = -1, 0
    async with asyncio.timeout(LIMIT):
        while same < 10:
            now = await registry.revision()
            last, same = (now, same + 1) if now == last else (now, 0)
            await asyncio.sleep(0.01)
    return last


async def test_an_unchanged_yaml_writes_nothing(disk):
    text = yaml(
        "local", models=["model_id: llama", "model_id: mine, provider_model_id: meta/llama", "model_id: missing"]
    )
    async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
        async with disk.registry(text) as registry:
            await instance.announce(registry.channel)
            await until(lambda: serving(registry, "mine"))
            revision = await settled(registry, instance)
            assert await registry.state("missing") == pb.SERVING_STATE_PENDING
            assert await settled(registry, instance, "local", "local") == revision
        async with disk.registry(text) as registry:
            await instance.announce(registry.channel)
            assert await settled(registry, instance, "local", "local") == revision
            assert "llama" in instance.providers["local"].asked


async def test_models_follow_the_yaml_and_users_rows_do_not(disk):
    async with fakes.running({"local": FakeProvider({**LLAMA, "q": "qwen"})}) as instance:
        first = yaml("local", models=["model_id: a, provider_model_id: llama", "model_id: b, provider_model_id: q"])
        async with disk.registry(first) as registry:
            await instance.announce(registry.channel)
            await until(lambda: serving(registry, "a"))
            await until(lambda: serving(registry, "b"))
            await registry.register("c", provider_model_id="q", metadata={"by": "user"})
            before = await registry.get("c")
        second = yaml(
            "local",
            models=["model_id: a, provider_model_id: q, metadata: {x: 1}", "model_id: c, provider_model_id: llama"],
        )
        async with disk.registry(second) as registry:
            await instance.announce(registry.channel)

            async def followed():
                model = await registry.get("a")
                return model.provider_resource_id == "qwen" and await registry.state("b") is None

            await until(followed)
            assert (await registry.get("a")).metadata["x"] == 1
            assert await registry.get("c") == before
        async with disk.registry(yaml("local")) as registry:

            async def removed():
                return await registry.state("a") is None

            await until(removed)
            assert await registry.get("c") == before


async def test_an_unregistered_declared_model_comes_back(disk):
    async with disk.registry(yaml("local", models=["model_id: llama"])) as registry:
        async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
            await until(lambda: serving(registry, "llama"))
            await registry.unregister("llama")
            await instance.report("local")
            await until(lambda: serving(registry, "llama"))


async def test_a_declared_model_moves_when_its_provider_is_no_longer_there(disk):
    async with fakes.running({"one": FakeProvider(LLAMA), "two": FakeProvider(LLAMA)}) as instance:
        async with disk.registry(yaml("one", models=["model_id: llama"])) as registry:
            two = instance.providers.pop("two")
            await instance.announce(registry.channel)
            await until(lambda: serving(registry, "llama"))
            await instance.say(leave={})
        instance.providers = {"two": two}
        async with disk.registry(yaml("two", models=["model_id: llama"])) as registry:
            await instance.announce(registry.channel)

            async def moved():
                return (await registry.get("llama")).provider_id == "two"

            await until(moved)


async def test_what_cannot_be_reached_is_tried_again(disk):
    async with disk.registry(yaml("local", models=["model_id: llama"])) as registry:
        async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
            instance.providers["local"].fails = BackendUnreachable("not yet")
            await instance.report("local")
            await until(lambda: len(instance.providers["local"].asked) > 2)
            assert (await registry.get("llama")).pending_reason == "not yet"
            instance.providers["local"].fails = None
            await until(lambda: serving(registry, "llama"))


# The process


async def test_health_names_every_service(registry):
    health = health_pb2_grpc.HealthStub(registry.channel)
    for name in ("", *server.SERVICES):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_streams_end_at_once_when_the_registry_stops(disk):
    channel = None
    async with asyncio.timeout(5):
        async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
            async with running(config(), SqliteStore(disk.path)) as listener:
                channel = internal_channel(listener.address)
                await instance.announce(channel)
                watch = WatchServiceStub(channel).Watch(watch_pb.WatchRequest(start_revision=1))
                assert (await watch.read()).revision == 1
            with pytest.raises(ShuttingDown):
                await read(watch)
            with pytest.raises(ShuttingDown):
                await read(instance.stream)
            await channel.close()


async def drain(watch, seen):
    while True:
        seen.append(await read(watch))


async def test_a_stream_that_is_stopped_in_the_middle_of_a_message_still_gets_its_status(disk):
    store, stop = SqliteStore(disk.path), asyncio.Event()
    address = asyncio.get_running_loop().create_future()

    async def run():
        async with running(config(), store) as listener:
            address.set_result(listener.address)
            await stop.wait()

    async with asyncio.timeout(8), background(run(), "registry") as registry:
        async with internal_channel(await address) as channel:
            value = pb.Model(identifier="m", provider_resource_id="x" * 1_000_000).SerializeToString()
            for n in range(20):
                await store.commit([Put(f"model/{n}", value)])
            watch = WatchServiceStub(channel).Watch(watch_pb.WatchRequest(start_revision=1))
            await watch.wait_for_connection()  # its window is full now: nobody reads
            stop.set()
            seen = []
            with pytest.raises(ShuttingDown):
                await drain(watch, seen)
            assert 0 < len(seen) < 20
            await registry


async def test_a_registry_without_its_disk_says_unavailable_and_inputs_are_still_checked(disk):
    store = SqliteStore(disk.path)
    async with running(config(), store) as listener, internal_channel(listener.address) as channel:
        registry = Registry(listener.address, channel)
        await store.__aexit__()
        with pytest.raises(MeshError) as raised:
            await registry.get("llama")
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(InvalidField):
            await registry.get("")
