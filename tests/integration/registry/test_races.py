"""Who registers a name when several try at once, at one replica or at two."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.sqlite.store import SqliteStore
from stackmesh.errors import ResourceExists
from tests.fakes.etcd import shared_etcd
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, registry_on
from tests.integration.registry.meeting import meeting
from tests.scale import full

pytestmark = pytest.mark.timeout(300)
ROUNDS = full(1000)


@pytest.fixture(scope="module")
def etcd():
    with shared_etcd() as member:
        yield member


@asynccontextmanager
async def replicas(*stores):
    """A registry on each store, all of which are one; two providers that host the same names announce to the first."""
    async with AsyncExitStack() as stack:
        registries = [await stack.enter_async_context(registry_on(store, lease_ttl=600)) for store in stores]
        providers = {"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA)}
        await stack.enter_async_context(registries[0].instance(providers))
        yield registries


async def one_wins(first, second, rounds):
    """Two clients register one name with different providers: one succeeds, and every reader says which."""
    for number in range(rounds):

        async def attempt(registry, provider_id, name=f"m{number}"):
            try:
                return await registry.register(name, provider_id=provider_id, provider_model_id="llama")
            except ResourceExists:
                return None

        results = await asyncio.gather(attempt(first, "a"), attempt(second, "b"))
        [won] = [model for model in results if model is not None]
        read = await asyncio.gather(*(registry.get(f"m{number}") for registry in (first, second)))
        assert read == [won, won]
    for registry in (first, second):
        await one_of_each(registry, rounds)


async def one_of_each(registry, rounds):
    """As often as names were registered, they were written: no winner was ever replaced."""
    revisions, token = [], ""
    while True:
        page = await registry.list(page_size=1000, page_token=token)
        revisions += [model.revision for model in page.models]
        if not (token := page.next_page_token):
            break
    assert len(revisions) == len(set(revisions)) == rounds
    assert max(revisions) - min(revisions) == rounds - 1


async def test_of_two_registrations_at_two_replicas_one_wins(etcd):
    store, url = meeting(EtcdStore), f"etcd://{etcd.address}/races"
    async with replicas(store(parse(url)), store(parse(url))) as [first, second]:
        await one_wins(first, second, ROUNDS)


async def test_of_two_registrations_at_one_replica_one_wins(tmp_path):
    async with replicas(meeting(SqliteStore)(tmp_path / "r.db")) as [registry]:
        await one_wins(registry, registry, ROUNDS)


async def test_the_check_finds_replicas_that_do_not_compare(etcd):
    store, url = meeting(EtcdStore, compares=False), f"etcd://{etcd.address}/careless"
    async with replicas(store(parse(url)), store(parse(url))) as [first, second]:
        with pytest.raises((AssertionError, ValueError)):
            await one_wins(first, second, 1)


async def test_the_check_finds_a_replica_that_does_not_compare(tmp_path):
    async with replicas(meeting(SqliteStore, compares=False)(tmp_path / "r.db")) as [registry]:
        with pytest.raises((AssertionError, ValueError)):
            await one_wins(registry, registry, 1)


async def test_a_name_comes_and_goes_at_both_replicas_alike(etcd):
    """What one replica has acknowledged, the other one knows: with every call at the other one than the call before."""
    url = f"etcd://{etcd.address}/turns"
    async with replicas(EtcdStore(parse(url)), EtcdStore(parse(url))) as pair:
        for number in range(full(100)):
            one, other = pair if number % 2 else reversed(pair)
            row = await one.register("m", provider_id="a", provider_model_id="llama", metadata={"n": number})
            assert await other.get("m") == row
            row = await other.update("m", expected_revision=row.revision, provider_id="b", provider_model_id="llama")
            assert await one.get("m") == row
            assert await one.unregister("m", expected_revision=row.revision) > row.revision
            assert await other.state("m") is None
