"""Lists and watches of some of the entries, through the service."""

import pytest

from stackmesh.errors import InvalidField, InvalidPageToken, NotFound
from stackmesh.registry.v1 import instances_service_pb2, watch_service_pb2 as pb
from stackmesh.registry.v1.instances_service_pb2_grpc import InstancesServiceStub
from stackmesh.routes import Api
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import Disk, call, read

NAMES = {name: name for name in "abcdef"}
KINDS = "there are: " + ", ".join(
    f"ENTRY_KIND_{kind}" for kind in ("MODEL", "SHIELD", "MEMORY_BANK", "AGENT", "PROVIDER", "INSTANCE")
)


@pytest.fixture
async def registry(tmp_path):
    async with Disk(tmp_path).registry() as registry:
        providers = {"p": FakeProvider(NAMES), "q": FakeProvider(NAMES), "s": FakeProvider(NAMES, api=Api.API_SAFETY)}
        async with registry.instance(providers, "i"):
            for name in NAMES:
                await registry.register(name, provider_id="pq"[ord(name) % 2])
            await registry.shields.register("a")
            yield registry


def wanted(*kinds, providers=()):
    return pb.EntryFilter(kinds=[pb.EntryKind.Value(f"ENTRY_KIND_{kind}") for kind in kinds], provider_ids=providers)


async def keys(registry, asked, size=0):
    found, token = [], ""
    while True:
        page = await registry.entries(filter=asked, page_size=size, page_token=token)
        assert len(page.entries) <= (size or 500)
        found += [entry.key for entry in page.entries]
        if not (token := page.next_page_token):
            return found


@pytest.mark.parametrize("size", [0, 1, 2, 3])
async def test_a_list_can_be_of_some_kinds_and_providers(registry, size):
    q, p = ["model/a", "model/c", "model/e"], ["model/b", "model/d", "model/f"]
    others = ["instance/i", "provider/inference/p", "provider/inference/q", "provider/safety/s"]
    for asked, expected in (
        (pb.EntryFilter(), sorted([*p, *q, *others, "shield/a"])),
        (wanted("MODEL"), sorted(p + q)),
        (wanted("SHIELD", "INSTANCE"), ["instance/i", "shield/a"]),
        (wanted("AGENT"), []),
        (wanted(providers=["p"]), sorted([*others, *p])),
        (wanted("MODEL", "SHIELD", providers=["q", "s"]), [*q, "shield/a"]),
        (wanted("MODEL", "PROVIDER", providers=["nobody"]), others[1:]),
    ):
        assert await keys(registry, asked, size) == expected


async def test_a_token_is_good_for_its_own_filter_only(registry):
    page = await registry.entries(filter=wanted("MODEL"), page_size=1)
    for other in (pb.EntryFilter(), wanted("SHIELD"), wanted("MODEL", providers=["p"])):
        with pytest.raises(InvalidPageToken, match="another list"):
            await registry.entries(filter=other, page_size=1, page_token=page.next_page_token)
    same = pb.EntryFilter(kinds=[pb.EntryKind.ENTRY_KIND_MODEL] * 2)
    assert (await registry.entries(filter=same, page_token=page.next_page_token)).entries


@pytest.mark.parametrize(
    ("asked", "field", "said"),
    [
        (pb.EntryFilter(kinds=[0]), "filter.kinds", f"has no value 0; {KINDS}"),
        (pb.EntryFilter(kinds=[1, 99]), "filter.kinds", f"has no value 99; {KINDS}"),
        (pb.EntryFilter(provider_ids=["NO"]), "filter.provider_ids", "may hold lower-case letters"),
    ],
)
async def test_a_filter_that_means_nothing_is_refused(registry, asked, field, said):
    with pytest.raises(InvalidField, match=f"^{field} {said}") as raised:
        await registry.entries(filter=asked)
    assert raised.value.field == field
    watch = registry.watches.Watch(pb.WatchRequest(start_revision=1, filter=asked))
    with pytest.raises(InvalidField, match=f"^{field} {said}") as raised:
        await read(watch)
    assert raised.value.field == field


async def test_a_watch_can_be_of_some_kinds_and_providers(registry):
    listed = await registry.entries(filter=wanted("MODEL", providers=["p"]))
    request = pb.WatchRequest(start_revision=listed.revision + 1, filter=wanted("MODEL", providers=["p"]))
    watch = registry.watches.Watch(request)
    await registry.register("mine", provider_id="p", provider_model_id="a")
    await registry.register("theirs", provider_id="q", provider_model_id="a")
    await registry.shields.register("b")
    fields = {"provider_id": "q", "provider_model_id": "a"}
    moved = await registry.update("mine", expected_revision=(await registry.get("mine")).revision, **fields)
    seen = []
    while not seen or seen[-1][2] is not None:
        seen += [(c.revision, c.entry.key, c.entry.WhichOneof("value")) for c in (await read(watch)).changes]
    assert seen == [
        (listed.revision + 1, "model/mine", "model"),
        (moved.revision, "model/mine", None),
    ]
    watch.cancel()


async def test_instances_can_be_listed_and_got(registry):
    stub = InstancesServiceStub(registry.channel)
    async with registry.instance({"p": FakeProvider(NAMES)}, "j"):
        got = (await call(stub.GetInstance, instances_service_pb2.GetInstanceRequest(instance_id="j"))).instance
        assert (got.instance_id, [h.provider_id for h in got.providers], got.revision > 0) == ("j", ["p"], True)
        first = await call(stub.ListInstances, instances_service_pb2.ListInstancesRequest(page_size=1))
        request = instances_service_pb2.ListInstancesRequest(page_token=first.next_page_token)
        rest = await call(stub.ListInstances, request)
        assert [i.instance_id for i in [*first.instances, *rest.instances]] == ["i", "j"]
        assert got == rest.instances[0]
        with pytest.raises(NotFound, match="no running instance is called k; there are: "):
            await call(stub.GetInstance, instances_service_pb2.GetInstanceRequest(instance_id="k"))
        with pytest.raises(InvalidField, match="instance_id is empty"):
            await call(stub.GetInstance, instances_service_pb2.GetInstanceRequest())
