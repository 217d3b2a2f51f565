import asyncio
from contextlib import asynccontextmanager

import pytest

from registry_service import records
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.mirror.mirror import Mirror
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from stackmesh.errors import RegistryUnreachable
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType
from stackmesh.tasks import background
from tests.fakes.etcd import etcd
from tests.waiting import until

MODEL = KINDS[ResourceType.RESOURCE_TYPE_MODEL]


class Counting(SqliteStore):
    """Counts what the mirror asks for."""

    heads = lists = watches = 0
    unreachable = False

    async def revision(self):
        self.heads += 1
        if self.unreachable:
            raise RegistryUnreachable("no route to the store")
        return await super().revision()

    async def list(self, prefix, **options):
        self.lists += 1
        return await super().list(prefix, **options)

    def watch(self, start_revision):
        self.watches += 1
        return super().watch(start_revision)


def put(name, **fields):
    model = pb.Model(identifier=name, **fields)
    return Put(records.key_of(model), records.encode(model))


@pytest.fixture
async def store(tmp_path):
    async with Counting(tmp_path / "r.db", checkpoint_seconds=0.05) as store:
        yield store


@asynccontextmanager
async def mirrored(store, kind=Mirror, **options):
    mirror = kind(store, **options)
    async with background(mirror.run(), "mirror"):
        yield mirror


async def reads_what_was_written(store, mirror, rounds=100):
    """Whoever asks after a write has been acknowledged sees it, and never one that was deleted before."""
    for n in range(rounds):
        revision = await store.commit([put(f"m{n}"), Delete(f"model/m{n - 1}")])
        known = await mirror.current()
        assert set(known.resources(MODEL)) == {f"m{n}"}
        assert known.resource(MODEL, f"m{n}").revision == revision == known.revision


async def test_what_was_acknowledged_is_known(store):
    async with mirrored(store) as mirror:
        await reads_what_was_written(store, mirror)
        assert (await mirror.current()).store_id == await store.store_id()


async def test_what_was_acknowledged_is_known_on_etcd_too(tmp_path):
    async with etcd(tmp_path) as member, EtcdStore(parse(f"etcd://{member.address}/mesh")) as store:
        async with mirrored(store) as mirror:
            await reads_what_was_written(store, mirror)


class Hasty(Mirror):
    async def current(self):
        return await self.changed(None)


async def test_the_check_finds_a_mirror_that_does_not_ask_the_store(store):
    await store.commit([put("m0")])
    async with mirrored(store, Hasty) as mirror:
        with pytest.raises(AssertionError):
            await reads_what_was_written(store, mirror)


async def test_a_thousand_questions_at_once_cost_two_reads_and_no_list(store):
    async with mirrored(store) as mirror:
        await mirror.current()
        store.heads = store.lists = 0
        await asyncio.gather(*(mirror.current() for _ in range(1000)))
        assert store.heads <= 2
        assert store.lists == 0


async def test_what_was_there_before_is_listed_page_by_page(store):
    for start in range(0, 1200, 50):
        await store.commit([put(f"m{n}") for n in range(start, start + 50)])
    async with mirrored(store) as mirror:
        assert set((await mirror.current()).resources(MODEL)) == {f"m{n}" for n in range(1200)}
        assert store.watches <= 1


async def test_an_unreachable_store_is_named_with_its_cause(store):
    async with mirrored(store) as mirror:
        known = await mirror.current()
        store.unreachable = True
        for _ in range(3):
            with pytest.raises(RegistryUnreachable, match="no route to the store"):
                await mirror.current()
        assert mirror.known is known
        store.unreachable = False
        assert await mirror.current() is known


async def test_a_copy_that_lags_is_not_taken_for_the_truth(store):
    class Mute(Counting):
        async def watch(self, start_revision):
            yield await asyncio.Event().wait()

    store.__class__ = Mute
    async with mirrored(store, limit=0.1) as mirror:
        await mirror.current()
        await store.commit([put("m")])
        with pytest.raises(RegistryUnreachable, match=r"could not catch up with its store within 0.1 s"):
            await mirror.current()


async def test_who_stops_waiting_disturbs_nobody(store):
    async with mirrored(store) as mirror:
        waiting = [asyncio.create_task(mirror.current()) for _ in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        for task in waiting[1::2]:
            assert await task


async def test_another_store_behind_the_same_door_replaces_everything(tmp_path):
    """As when an etcd is replaced: its revisions begin again, and what was known before must not be mixed in."""
    async with SqliteStore(tmp_path / "one.db") as one, SqliteStore(tmp_path / "two.db") as two:

        class Door:
            behind = one

            def __getattr__(self, name):
                return getattr(self.behind, name)

        door = Door()
        for n in range(5):
            await one.commit([put(f"one{n}")])
        await two.commit([put("two")])
        async with mirrored(door) as mirror:
            assert len((await mirror.current()).resources(MODEL)) == 5
            door.behind = two
            await one.__aexit__()

            async def replaced():
                return set((await mirror.current()).resources(MODEL)) == {"two"}

            await until(replaced)
            assert mirror.known.store_id == await two.store_id()


async def test_it_is_back_soon_after_its_store_is(store):
    class Lost(Counting):
        tries = 0

        async def store_id(self):
            self.tries += 1
            if self.tries <= 7:
                raise RegistryUnreachable("no route to the store")
            return await super().store_id()

    store.__class__ = Lost
    async with mirrored(store) as mirror, asyncio.timeout(5.5):  # the gateways' patience would take 6.3 s at least
        await mirror.changed(None)
