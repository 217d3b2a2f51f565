"""Instances that report at the same time, through different replicas."""

import pytest

from registry_service import draft as drafts, records, reports
from registry_service.draft import Draft, update
from registry_service.sqlite import SqliteStore
from stackmesh.errors import Conflict
from stackmesh.registry.v1 import announce_service_pb2, resources_pb2 as pb
from stackmesh.routes import Api
from stackmesh.serving import serves


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


def report(*names, provider_id="p"):
    return announce_service_pb2.ServedReport(
        api=Api.API_INFERENCE, provider_id=provider_id, provider_type="inline::x", provider_resource_ids=names
    )


def instance(instance_id):
    return pb.Instance(instance_id=instance_id, address="127.0.0.1:1")


async def serving(store):
    """What each instance serves, as the records have it."""
    draft = await drafts.read(store)
    [provider] = draft.providers()
    return {i.instance_id: {n for n in provider.served if serves(provider, i, n)} for i in draft.instances()}


async def a_newcomer_is_seen(store, kind=Draft):
    """While one instance reports a new name, another one says hello: neither may overlook the other."""
    await update(store, lambda draft: reports.write(draft, instance("i"), [report("a")]))

    async def read():
        draft = await drafts.read(store)
        return kind(draft._rows.values(), draft.revision)

    one, other = await read(), await read()
    reports.write(other, instance("k"), [report("a")])
    await other.commit(store)
    reports.write(one, one.instance("i"), [report("a", "b")])
    try:
        await one.commit(store)
    except Conflict:
        await update(store, lambda draft: reports.write(draft, draft.instance("i"), [report("a", "b")]))
    assert await serving(store) == {"i": {"a", "b"}, "k": {"a"}}


async def test_a_newcomer_is_seen_by_a_report_at_the_same_time(store):
    await a_newcomer_is_seen(store)


class Shortsighted(Draft):
    def put(self, record, lease=0, *, always=False):
        super().put(record, lease)


async def test_the_check_finds_a_newcomer_that_is_overlooked(store):
    with pytest.raises(AssertionError):
        await a_newcomer_is_seen(store, Shortsighted)


async def test_a_provider_hosted_later_counts_as_a_newcomer(store):
    await update(store, lambda draft: reports.write(draft, instance("i"), [report("a")]))
    await update(store, lambda draft: reports.write(draft, instance("k"), []))
    before = (await drafts.read(store)).provider(Api.API_INFERENCE, "p")
    await update(store, lambda draft: reports.write(draft, draft.instance("k"), [report("a")]))
    assert (await drafts.read(store)).provider(Api.API_INFERENCE, "p").revision > before.revision


async def test_every_step_of_a_large_merge_is_right(store):
    """120 hosts do not fit into one commit: at no revision may a host seem to serve what it does not."""
    for n in range(120):
        await update(store, lambda draft, n=n: reports.write(draft, instance(f"i{n:03}"), [report("a")]))
    start = await store.revision()
    await update(store, lambda draft: reports.write(draft, draft.instance("i000"), [report("a", "b")]))
    last = await store.revision()
    assert last - start > 1
    for revision in range(start, last + 1):
        [provider], _ = await records.read(store, records.PROVIDERS, records.provider, revision)
        hosts, _ = await records.read(store, records.INSTANCES, records.instance, revision)
        assert {h.instance_id for h in hosts if serves(provider, h, "b")} <= {"i000"}
        assert all(serves(provider, h, "a") for h in hosts)
    assert (await serving(store))["i000"] == {"a", "b"}
