"""Many watchers of one feed, on a real store."""

import asyncio
import math
import random
from contextlib import aclosing, asynccontextmanager

import pytest

from registry_service import records
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.filters import EVERYTHING, Wanted
from registry_service.mirror.feed import Feed
from registry_service.mirror.mirror import Mirror
from registry_service.mirror.ring import Ring
from registry_service.mirror.telling import response
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from stackmesh.errors import RegistryUnreachable, RevisionGone
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.tasks import background
from tests.fakes.etcd import etcd
from tests.waiting import until

LIMIT = 20.0


class Store(SqliteStore):
    """Counts its watches; `mute` lets them say nothing more."""

    watches = 0
    mute = False

    async def watch(self, start_revision):
        self.watches += 1
        async with aclosing(super().watch(start_revision)) as commits:
            async for commit in commits:
                if self.mute:
                    await asyncio.Event().wait()
                yield commit


@pytest.fixture
async def store(tmp_path):
    async with Store(tmp_path / "r.db", checkpoint_seconds=0.05) as store:
        yield store


@asynccontextmanager
async def fed(store, kind=Feed, **options):
    feed = kind(store, **options)
    mirror = Mirror(store, feed.source)
    async with background(mirror.run(), "mirror"):
        await mirror.current()
        yield feed


def put(name, provider="p"):
    model = resources_pb2.Model(identifier=name, provider_id=provider)
    return Put(records.key_of(model), records.encode(model))


async def messages(feed, start, store_id, wanted=EVERYTHING):
    async with aclosing(feed.watch(start, store_id, wanted)) as said:
        async for message in said:
            yield pb.WatchResponse.FromString(message)


async def collect(feed, start, upto, store_id, wanted=EVERYTHING, *, slow=False):
    """What a watcher is told from one revision to another, which may be a future."""
    changes = []
    async with asyncio.timeout(LIMIT), aclosing(messages(feed, start, store_id, wanted)) as said:
        async for message in said:
            assert all(start <= change.revision <= message.revision for change in message.changes)
            changes += message.changes
            start = message.revision + 1
            if message.revision >= (upto if isinstance(upto, int) else upto.result() if upto.done() else math.inf):
                return changes
            if slow:
                for _ in range(20):
                    await asyncio.sleep(0)
    raise AssertionError("the watch has ended")


# Nothing lost, nothing repeated


async def nothing_is_lost_or_repeated(store, kind=Feed, count=300):
    """Watchers that begin anywhere, at any time, some of them slow, each see every commit once and in order."""
    rng, store_id = random.Random(5), await store.store_id()  # noqa: S311 -- a fixed seed
    made = [await store.commit([put(f"m{n % 7}"), put("shared")]) for n in range(30)]
    last = asyncio.get_running_loop().create_future()
    async with fed(store, kind, ring=Ring(0, most_changes=24)) as feed, asyncio.TaskGroup() as group:
        watchers = []
        for n in range(count):
            made.append(await store.commit([put(f"m{n % 7}"), put("shared")]))
            if rng.random() < 0.5:
                back = rng.choice([1, 12, 13, 14, rng.randint(1, 40)])
                start = rng.choice([made[0], made[max(0, len(made) - back)], made[-1] + 1])
                slow = rng.random() < 0.3
                watchers.append((start, group.create_task(collect(feed, start, last, store_id, slow=slow))))
        last.set_result(await store.commit([put("last"), put("shared")]))
    made.append(last.result())
    for start, watcher in watchers:
        assert [c.revision for c in watcher.result()] == sorted([r for r in made if r >= start] * 2)


async def test_a_watcher_joins_anywhere_without_losing_or_repeating_anything(store):
    await nothing_is_lost_or_repeated(store)


class SlowToClose(Store):
    """As over a network: while a watcher leaves it, more is written."""

    async def watch(self, start_revision):
        try:
            async with aclosing(super().watch(start_revision)) as commits:
                async for commit in commits:
                    yield commit
        finally:
            await asyncio.sleep(0.02)


async def test_neither_if_leaving_the_store_takes_longer_than_the_ring_lasts(tmp_path):
    async with SlowToClose(tmp_path / "r.db", checkpoint_seconds=0.05) as store:
        await nothing_is_lost_or_repeated(store)


async def test_neither_does_one_on_etcd(tmp_path):
    async with etcd(tmp_path) as member, EtcdStore(parse(f"etcd://{member.address}/mesh")) as store:
        await nothing_is_lost_or_repeated(store)


class JoinsLate(Feed):
    def _covers(self, position, store_id):
        return self._store_id == store_id and self._ring.base <= position


class JoinsEarly(Feed):
    async def _older(self, position, store_id, wanted):
        async for message, following in super()._older(position, store_id, wanted):
            yield message, following - 1


@pytest.mark.parametrize("kind", [JoinsLate, JoinsEarly])
async def test_the_check_finds_a_feed_that_joins_at_the_wrong_place(store, kind):
    with pytest.raises((AssertionError, ExceptionGroup)):
        await nothing_is_lost_or_repeated(store, kind)


async def test_a_thousand_watchers_are_one_watch_of_the_store(store):
    store_id = await store.store_id()
    async with fed(store) as feed:
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(collect(feed, 1, 10, store_id)) for _ in range(1000)]
            for n in range(10):
                await store.commit([put(f"m{n}")])
        assert all(len(watcher.result()) == 10 for watcher in watchers)
        assert store.watches == 1


# Filters


@pytest.mark.parametrize("room", [6, 10_000])
async def test_a_filtered_watch_adds_up_to_the_filtered_list(store, room):
    """Whether it reads the ring or, since that is too small, the store."""
    rng, store_id = random.Random(3), await store.store_id()  # noqa: S311 -- a fixed seed
    wanted = Wanted(prefixes=frozenset({"model/"}), provider_ids=frozenset({"a", "b"}))
    shield = records.encode(resources_pb2.Shield(identifier="s", provider_id="a"))
    last = 400
    async with fed(store, ring=Ring(0, most_changes=room)) as feed, asyncio.TaskGroup() as group:
        watchers = [group.create_task(collect(feed, 1, last, store_id, wanted, slow=bool(n))) for n in range(3)]
        for n in range(last - 1):
            name = f"m{rng.randint(0, 9)}"
            op = Delete(f"model/{name}") if rng.random() < 0.2 else put(name, rng.choice("abcd"))
            await store.commit([op, Put(f"shield/{n}", shield)])
        await store.commit([put("last", "a")])
    found = {row.key for row in (await store.list("model/")).rows if wanted.row(row)}
    assert 3 <= len(found) <= 9
    for watcher in watchers:
        keys = set()
        for change in watcher.result():
            (keys.discard if change.entry.WhichOneof("value") is None else keys.add)(change.entry.key)
            assert change.entry.key.startswith("model/")
        assert keys == found


async def test_who_wants_nothing_of_it_still_hears_how_far_it_is(store):
    store_id = await store.store_id()
    async with fed(store) as feed:
        for n in range(20):
            await store.commit([put(f"m{n}")])
        assert await collect(feed, 1, 20, store_id, Wanted(prefixes=frozenset({"shield/"}))) == []


# A silent store


async def at_most(count, said):
    told = [message async for message in (await anext(said) for _ in range(count + 1))]
    raise AssertionError(f"more was said: {told}")


async def silence_is_told(store, kind=Feed):
    """Once the store says nothing, nothing is said on its behalf, and the watch ends in time."""
    async with fed(store, kind, silence=0.5) as feed, asyncio.timeout(LIMIT):
        await store.commit([put("m")])
        async with aclosing(messages(feed, 1, await store.store_id())) as said:
            assert (await anext(said)).changes
            assert (await anext(said)) == pb.WatchResponse(revision=1)
            store.mute = True
            await store.commit([put("unheard")])
            asked = asyncio.get_running_loop().time()
            with pytest.raises(RegistryUnreachable, match=r"silent for 0.5 s"):
                await at_most(2, said)  # what was on its way
            assert asyncio.get_running_loop().time() - asked < 2


async def test_when_the_store_falls_silent_its_watchers_are_told(store):
    await silence_is_told(store)


class Reassuring(Feed):
    async def _more(self):
        self._hear(idle=True)
        await asyncio.sleep(0.01)


async def test_the_check_finds_a_feed_that_speaks_for_a_silent_store(store):
    with pytest.raises(AssertionError):
        await silence_is_told(store, Reassuring)


async def test_a_watch_that_begins_while_the_store_is_silent_ends_at_once(store):
    async with fed(store, silence=0.2) as feed, asyncio.timeout(LIMIT):
        store.mute = True
        await until(lambda: feed._now() - feed._heard > 0.3)
        with pytest.raises(RegistryUnreachable):
            await anext(messages(feed, 1, await store.store_id()))


# Places that are not there


async def test_the_future_of_the_store_cannot_be_watched(store):
    async with fed(store) as feed:
        with pytest.raises(RevisionGone):
            await anext(messages(feed, 2, await store.store_id()))


async def test_what_the_feed_has_not_heard_yet_can_be_watched(store):
    """As when the list was another replica's, which is further."""
    async with fed(store) as feed:
        await until(lambda: feed._idle > 0)
        store.mute = True
        revision = await store.commit([put("unheard")])
        async with aclosing(messages(feed, revision + 1, await store.store_id())) as watch:
            waiting = asyncio.create_task(anext(watch))
            await asyncio.wait([waiting], timeout=0.1)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_another_store_ends_every_watch(tmp_path):
    async with Store(tmp_path / "1.db", checkpoint_seconds=0.05) as one, Store(tmp_path / "2.db") as two:

        class Door:
            behind = one

            def __getattr__(self, name):
                return getattr(self.behind, name)

        door = Door()
        for _ in range(3):
            await one.commit([put("m")])
        await two.commit([put("m")])
        async with fed(door) as feed, asyncio.timeout(LIMIT):
            watch = messages(feed, 4, await one.store_id())
            assert (await anext(watch)).revision == 3
            door.behind = two
            await one.__aexit__()
            with pytest.raises(RevisionGone):
                async for _ in watch:
                    pass


async def test_a_feed_that_was_never_fed_reads_the_store(store):
    for n in range(3):
        await store.commit([put(f"m{n}")])
    assert len(await collect(Feed(store), 1, 3, await store.store_id())) == 3


def test_a_checkpoint_is_a_revision_alone():
    assert pb.WatchResponse.FromString(response(7)) == pb.WatchResponse(revision=7)
