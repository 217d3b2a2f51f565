import pytest
from google.protobuf.struct_pb2 import Struct

from registry_service import records
from registry_service.resolve import Resolver, Wanted
from registry_service.sqlite import SqliteStore
from registry_service.store import Put
from stackmesh.errors import BackendUnreachable, Timeout
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api, ResourceType
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


async def host(store, instance_id, address, *provider_ids):
    entries = [pb.HostedProvider(api=Api.API_INFERENCE, provider_id=p) for p in provider_ids]
    rows = [pb.Provider(api=Api.API_INFERENCE, provider_id=p) for p in provider_ids]
    rows.append(pb.Instance(instance_id=instance_id, address=address, providers=entries))
    await store.commit([Put(records.key_of(row), records.encode(row)) for row in rows])


def wanted(name, provider_id=""):
    return Wanted(ResourceType.RESOURCE_TYPE_MODEL, name, Struct(), provider_id)


async def test_an_instance_that_does_not_answer_is_given_up_for_the_next(store):
    hanging, answering = FakeProvider({"m": "x"}), FakeProvider({"m": "x"})
    hanging.hangs = True
    async with fakes.running({"p": hanging}) as one, fakes.running({"p": answering}) as two:
        await host(store, "i1", one.address, "p")
        with pytest.raises(Timeout, match=r"the provider p did not answer within 0.2 s"):
            await Resolver(store, ask_seconds=0.2).resolve(wanted("m"))
        await host(store, "i2", two.address, "p")
        assert (await Resolver(store, ask_seconds=0.2).resolve(wanted("m"))).provider_resource_id == "x"
        assert (hanging.asked, answering.asked) == (["m", "m"], ["m"])


async def test_providers_are_asked_at_the_same_time(store):
    slow = {p: FakeProvider({}) for p in ("a", "b", "c", "d")}
    for provider in slow.values():
        provider.hangs = True
    async with fakes.running(slow) as instance:
        await host(store, "i", instance.address, *slow)
        with pytest.raises(BackendUnreachable, match=r"a: the provider a did not answer .* d: the provider d did not"):
            await Resolver(store, ask_seconds=0.3).resolve(wanted("m"))
        assert [p.asked for p in slow.values()] == [["m"]] * 4


async def test_metadata_and_type_reach_the_provider(store):
    provider = FakeProvider({"m": "x"})
    async with fakes.running({"p": provider}) as instance:
        await host(store, "i", instance.address, "p")
        metadata = Struct()
        metadata.update({"k": "v"})
        await Resolver(store).resolve(Wanted(ResourceType.RESOURCE_TYPE_MODEL, "m", metadata))
    [request] = provider.requests
    assert (request.provider_id, request.resource_type, request.metadata["k"]) == ("p", 1, "v")
