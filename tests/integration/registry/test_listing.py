"""Getting, listing and unregistering."""

import grpc
import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import (
    InvalidField,
    InvalidPageToken,
    ProviderNotFound,
    ResourceNotFound,
)
from stackmesh.registry.v1 import (
    instances_service_pb2 as instances_pb,
    models_service_pb2 as models_pb,
    providers_service_pb2 as providers_pb,
    resources_pb2 as pb,
)
from stackmesh.registry.v1.instances_service_pb2_grpc import InstancesServiceStub
from stackmesh.routes import Api
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, call


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
            await registry.models.stub.GetModel(models_pb.GetModelRequest(model_id="y" * 255))
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
                await call(registry.providers.ListProviders, providers_pb.ListProvidersRequest(page_size=1))
            ).next_page_token,
        ]
        assert all(tokens)
        assert (await registry.list(page_token=tokens[0])).models
        altered = ("B" if tokens[0][0] == "A" else "A") + tokens[0][1:]
        bad = [*tokens[1:], "garbage", "ÿ", "AAAA", "x" * 10_000, tokens[0][:-2], altered]
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
        listed = (await call(registry.providers.ListProviders, providers_pb.ListProvidersRequest())).providers
        assert [(p.provider_id, p.provider_type) for p in listed] == [
            ("a", "remote::fake"),
            ("b", "inline::fake"),
            ("s", "inline::fake"),
        ]
        assert list((await registry.provider("b")).served) == ["llama-8b"]
        with pytest.raises(ProviderNotFound, match="no inference provider is called s; there are: "):
            await registry.provider("s")
        there_are = "there are: API_INFERENCE, API_SAFETY, API_MEMORY, API_AGENTS$"
        for api in (0, 99, -1):
            with pytest.raises(InvalidField, match=f"^api has no value {api}; {there_are}") as raised:
                await registry.provider("a", api=api)
            assert raised.value.field == "api"
        with pytest.raises(InvalidField, match="provider_id is empty"):
            await registry.provider("")


async def test_a_row_that_cannot_be_read_costs_no_list(disk):
    """A hand in the store, or another mesh below this one's prefix, must not take away what is good."""
    keys = ("model/bad", "provider/inference/bad", "instance/bad")
    async with SqliteStore(disk.path) as store:
        await store.commit([Put(key, b"\xff") for key in keys])
    async with disk.registry() as registry, registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        await registry.register("llama")
        listed = await call(registry.models.stub.ListModels, models_pb.ListModelsRequest())
        assert [model.identifier for model in listed.models] == ["llama"]
        known = await call(registry.providers.ListProviders, providers_pb.ListProvidersRequest())
        assert [provider.provider_id for provider in known.providers] == ["local"]
        instances = InstancesServiceStub(registry.channel)
        alive = await call(instances.ListInstances, instances_pb.ListInstancesRequest())
        assert [one.instance_id for one in alive.instances] == [instance.instance_id]
