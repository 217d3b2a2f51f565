"""Leases and hellos, where an instance speaks to two replicas of a registry, or is refused by one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from registry_service.instances.announce import Announce
from registry_service.sqlite.store import SqliteStore
from stackmesh.errors import FailedPrecondition, RegistryUnreachable
from stackmesh.registry.v1 import announce_service_pb2 as pb, resources_pb2
from stackmesh.routes import Api
from tests.fakes.registry_parts import drafting
from tests.waiting import until

LIMIT = 10.0
TTL = 15.0


@pytest.fixture
async def store(tmp_path):
    async with Watched(tmp_path / "r.db") as store:
        yield store


class Watched(SqliteStore):
    """Knows what leases it has granted. While it is `cut`, it cannot end any."""

    cut = False

    def __init__(self, path):
        super().__init__(path)
        self.granted = []

    async def grant(self, ttl):
        self.granted.append(await super().grant(ttl))
        return self.granted[-1]

    async def revoke(self, lease):
        if self.cut:
            raise RegistryUnreachable("cut off")
        await super().revoke(lease)


class Replica:
    """One replica's AnnounceService. What it is about to write waits while `open` is not set."""

    def __init__(self, store, mirror, drafts, kind):
        self.announce = kind(store, mirror, self, TTL)
        self.mirror = mirror
        self.open = asyncio.Event()
        self.open.set()
        self._drafts = drafts
        self.waiting = False

    async def update(self, change):
        self.waiting = True
        await self.open.wait()
        return await self._drafts.update(change)

    async def lease_of_the_row(self):
        row = (await self.mirror.current()).instance("i")
        return row.lease_id if row is not None else None


@asynccontextmanager
async def replica(store, kind=Announce):
    async with drafting(store) as (mirror, drafts):
        yield Replica(store, mirror, drafts, kind)


class Voice:
    """An instance's stream to one replica."""

    def __init__(self, replica):
        self._said = asyncio.Queue()
        self._answers = replica.announce.Announce(self._requests(), None)

    async def _requests(self):
        while True:
            yield await self._said.get()

    async def say(self, **event):
        self._said.put_nowait(pb.AnnounceRequest(**event))
        async with asyncio.timeout(LIMIT):
            return await anext(self._answers)


def hello(lease=0, provider_type="inline::x"):
    report = pb.ServedReport(
        api=Api.API_INFERENCE, provider_id="p", provider_type=provider_type, provider_resource_ids=["m"]
    )
    return pb.Hello(instance_id="i", address="127.0.0.1:1", lease_id=lease, providers=[report])


async def test_of_two_hellos_on_their_way_the_later_one_yields(store):
    """The instance lost patience with a slow replica and went to another one: then the slow one gets to write."""
    async with replica(store) as slow, replica(store) as other:
        slow.open.clear()
        late = asyncio.create_task(Voice(slow).say(hello=hello()))
        await until(lambda: slow.waiting)
        voice = Voice(other)
        lease = (await voice.say(hello=hello())).lease_id
        slow.open.set()
        with pytest.raises(FailedPrecondition, match="say hello again"):
            await late
        assert await other.lease_of_the_row() == lease
        await voice.say(beat={})
        [unused] = set(store.granted) - {lease}
        assert not await store.keep_alive(unused)


async def a_row_under_another_lease_is_told(store, kind=Announce):
    """A replica gives the row a lease of its own, and is cut off before it could end the one that is beaten."""
    async with replica(store, kind) as one, replica(store, kind) as other:
        voice = Voice(one)
        lease = (await voice.say(hello=hello())).lease_id
        store.cut = True
        with pytest.raises(RegistryUnreachable):
            await Voice(other).say(hello=hello())
        store.cut = False
        assert await one.lease_of_the_row() != lease
        with pytest.raises(FailedPrecondition, match="say hello again"):
            await voice.say(beat={})
        again = Voice(one)
        lease = (await again.say(hello=hello(lease))).lease_id
        await again.say(beat={})
        assert await one.lease_of_the_row() == lease


async def test_an_instance_hears_that_its_row_is_under_another_lease(store):
    await a_row_under_another_lease_is_told(store)


class Trusting(Announce):
    """The planted bug: the lease is alive, so all is well."""

    def _is_elsewhere(self, instance_id, lease, since):
        return False


async def test_the_check_sees_beats_that_keep_nothing(store):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await a_row_under_another_lease_is_told(store, Trusting)


async def a_refused_hello_leaves_no_lease(store, kind=Announce):
    async with replica(store, kind) as one:
        lease = (await Voice(one).say(hello=hello())).lease_id

        def declare(draft):
            row = draft.provider(Api.API_INFERENCE, "p")
            row.source = resources_pb2.SOURCE_CONFIG
            draft.put(row)

        await one.update(declare)
        kept = []
        store.keep_alive, keep_alive = lambda lease: kept.append(lease) or keep_alive(lease), store.keep_alive
        for known in (lease, 0):
            with pytest.raises(FailedPrecondition, match="give both the same YAML"):
                await Voice(one).say(hello=hello(known, "inline::y"))
        assert (store.granted, kept) == ([lease], [])


async def test_a_hello_that_is_refused_renews_no_lease_and_leaves_none(store):
    await a_refused_hello_leaves_no_lease(store)


class Hasty(Announce):
    """The planted bug: the lease is renewed before anybody has looked."""

    async def _hello(self, hello):
        await self._lease(await self._mirror.current(), hello)
        return await super()._hello(hello)


async def test_the_check_sees_leases_of_who_is_refused(store):
    with pytest.raises(AssertionError):
        await a_refused_hello_leaves_no_lease(store, Hasty)
