"""A watch loses nothing, repeats nothing and never hangs."""

import asyncio
import time
from contextlib import aclosing
from itertools import groupby

import pytest

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.etcd.watch import Watch
from registry_service.store import Delete, Put
from stackmesh.errors import RegistryUnreachable, RevisionGone, Unavailable
from stackmesh.tasks import background
from tests.contracts.store import collect, next_change, now
from tests.fakes.etcd import etcd, etcd_cluster, shared_etcd, store_url
from tests.fakes.newer_etcd import newer_etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.scale import full

COMMITS = 1500
NOTICED = 8.0
"""Seconds in which a silent etcd has to be noticed: the contract allows 10."""


class Hasty(EtcdStore):
    """Takes a revision from every header."""

    def watch(self, start_revision):
        return HastyWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class HastyWatch(Watch):
    def _progress(self, answer, watch_id):
        return answer.header.revision


@pytest.fixture(scope="module")
def replay():
    """3,000 events in 1,500 commits, in an etcd of their own, which nobody compacts: where, and their revisions."""

    async def fill(address):
        async with EtcdStore(parse(store_url(address))) as store:
            return [await store.commit([Put(f"k{n % 50}", b"v" * 100), Put(f"n{n}", b"")]) for n in range(COMMITS)]

    with shared_etcd() as member:
        yield member.address, asyncio.run(fill(member.address))


async def follow(store, start, last):
    """What a watch gives that is resumed after the last revision it delivered, until that is `last`."""
    seen = []
    async with asyncio.timeout(30):
        while start <= last:
            try:
                async with aclosing(store.watch(start)) as watch:
                    async for commit in watch:
                        if commit.changes:
                            seen.append(commit)
                        start = commit.revision + 1
                        if start > last:
                            break
            except RegistryUnreachable:
                await asyncio.sleep(0)
    return seen


async def whole(replay, cuts, kind=EtcdStore, silence=0.02):
    """The replay arrives whole, cut after so many different shares of its bytes."""
    address, revisions = replay
    async with TcpProxy(address) as proxy:
        async with kind(parse(store_url(proxy.address)), silence=silence) as store:
            before = proxy.received
            await follow(store, revisions[0], revisions[-1])
            size = proxy.received - before
            for cut in range(cuts):
                accepted = proxy.accepted
                proxy.cut_after(size * (cut + 1) // (cuts + 1))
                seen = await follow(store, revisions[0], revisions[-1])
                assert [commit.revision for commit in seen] == revisions
                assert {len(commit.changes) for commit in seen} == {2}
                assert proxy.accepted > accepted, "it was not cut at all"


@pytest.mark.timeout(120)
async def test_a_cut_replay_loses_and_repeats_nothing(replay):
    await whole(replay, full(50))


async def test_that_check_finds_a_watch_that_takes_revisions_from_headers(replay):
    with pytest.raises(AssertionError):
        await whole(replay, 3, Hasty, silence=0.001)


async def test_a_watch_whose_place_is_compacted_while_it_is_away_is_told(member, prefix):
    async with TcpProxy(member.address) as proxy, EtcdStore(parse(store_url(proxy.address, prefix=prefix))) as store:
        first = await store.commit([Put("a", b"1")])
        async with aclosing(store.watch(first)) as watch:
            assert (await next_change(watch)).revision == first
            proxy.cut()
            with pytest.raises(RegistryUnreachable):
                await next_change(watch)
        last = [await store.commit([Put("a", b"%d" % n)]) for n in range(3)][-1]
        await store.compact(last)
        async with asyncio.timeout(2), aclosing(store.watch(first + 1)) as watch:
            with pytest.raises(RevisionGone, match="compacted"):
                await next_change(watch)


async def drain(watch):
    async for _ in watch:
        pass


async def noticed(store, fault):
    """A watch fails in time once etcd has fallen silent."""
    start = await now(store) + 1
    async with aclosing(store.watch(start)) as watch:
        assert not (await anext(watch)).changes
        fault()
        async with asyncio.timeout(NOTICED):
            with pytest.raises(RegistryUnreachable):
                await drain(watch)


@pytest.fixture
async def proxied(member, prefix):
    async with TcpProxy(member.address) as proxy:
        yield proxy, parse(store_url(proxy.address, prefix=prefix))


async def test_a_black_hole_is_noticed(proxied):
    proxy, location = proxied
    async with EtcdStore(location) as store:
        await noticed(store, proxy.stall)
        proxy.resume()
        await store.commit([Put("a", b"1")])


async def test_a_frozen_member_is_noticed(tmp_path):
    async with etcd(tmp_path) as member, EtcdStore(parse(store_url(member.address))) as store:
        await noticed(store, member.stop)
        member.resume()
        await store.commit([Put("a", b"1")])


class Patient(EtcdStore):
    """Does not ask whether etcd lives."""

    def watch(self, start_revision):
        return PatientWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class PatientWatch(Watch):
    heard = 0

    async def _hear(self, stream):
        self.heard += 1
        # Asks once, after it has been created, so that there is a first checkpoint.
        return await super()._hear(stream) if self.heard <= 2 else await stream.next(60)


async def test_that_check_finds_a_watch_that_does_not_ask(proxied):
    proxy, location = proxied
    async with Patient(location) as store:
        with pytest.raises(TimeoutError):
            await noticed(store, proxy.stall)


class Leaderless(EtcdStore):
    """Does not ask for members with a leader."""

    def __init__(self, location, **options):
        super().__init__(location, **options)
        self._client.metadata = self._nothing

    async def _nothing(self, endpoint):
        return ()


async def loses_quorum(folder, kind=EtcdStore):
    """With two of three members gone, a watch at the third fails in time, and writes fail within 3 s."""
    async with etcd_cluster(folder) as members, kind(parse(store_url(members[0].address)), silence=0.5) as store:
        await store.commit([Put("a", b"1")])

        def kill():
            for member in members[1:]:
                member.kill()

        await noticed(store, kill)
        for call in (store.commit([Put("a", b"2")]), store.get("a"), store.grant(5), store.revision()):
            begin = time.monotonic()
            with pytest.raises(RegistryUnreachable, match=members[0].address):
                await call
            assert time.monotonic() - begin < 3
        for member in members[1:]:
            member.start()
        await members[0].ready()
        await store.commit([Put("a", b"3")])


async def test_a_lost_quorum_is_noticed(tmp_path):
    await loses_quorum(tmp_path)


async def test_that_check_finds_a_watch_that_needs_no_leader(tmp_path):
    with pytest.raises(TimeoutError):
        await loses_quorum(tmp_path, Leaderless)


class Late(EtcdStore):
    """Begins its watches in the future, when there is nothing else to come."""

    def watch(self, start_revision):
        return LateWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class LateWatch(Watch):
    async def _create(self, stream, start):
        return await super()._create(stream, self._start)


async def idles(member, prefix, kind=EtcdStore):
    """A watch of a newer etcd in which nothing happens lives on, and gives what happens then."""
    async with newer_etcd(member.address) as (newer, address):
        async with kind(parse(store_url(address, prefix=prefix)), silence=0.05) as store:
            last = await store.commit([Put("a", b"1")])
            async with aclosing(store.watch(last + 1)) as watch:
                assert [(await anext(watch)).changes for _ in range(5)] == [()] * 5
                revision = await store.commit([Put("a", b"2")])
                assert (await next_change(watch)).revision == revision
            await store.compact(revision)  # then nothing before it can be watched
            assert [c.revision for c in await collect(store, revision, revision)] == [revision]
        assert not newer.unanswered


async def test_an_idle_watch_of_a_newer_etcd_lives_on(member, prefix):
    await idles(member, prefix)


async def test_that_check_finds_a_watch_that_begins_in_the_future(member, prefix):
    with pytest.raises(RegistryUnreachable, match="does not answer"):
        await idles(member, prefix, Late)


class Breathless(EtcdStore):
    """Gives whatever there is in a row."""

    def watch(self, start_revision):
        return BreathlessWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class BreathlessWatch(Watch):
    async def _breathe(self):
        pass


async def lets_others_work(replay, kind=EtcdStore):
    """However long a replay is, the event loop comes round all the time."""
    address, revisions = replay
    rounds = 0

    async def count():
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async with kind(parse(store_url(address))) as store:
        async with background(count(), "count"), aclosing(store.watch(revisions[0])) as watch:
            seen = [(await anext(watch), rounds)[1] for _ in revisions]
    in_a_row = max(len(list(group)) for _, group in groupby(seen))
    assert in_a_row <= 10


async def test_a_replay_lets_others_work(replay):
    await lets_others_work(replay)


async def test_that_check_finds_a_watch_that_does_not(replay):
    with pytest.raises(AssertionError):
        await lets_others_work(replay, Breathless)


async def test_an_idle_watch_comes_to_the_revision_of_a_revocation(member, url):
    async with EtcdStore(parse(url)) as store:
        lease = await store.grant(5)
        first = await store.commit([Put("a", b"1", lease)])
        await store.revoke(lease)
        assert await store.revision() > first
        [commit] = await collect(store, first + 1, await store.revision())
        assert commit.changes == (Delete("a"),)


async def test_large_revisions_arrive_whole_in_pieces(member, url):
    async with EtcdStore(parse(url)) as store:
        revisions = [await store.commit([Put(f"{n}", b"x" * 25_000) for n in range(50)]) for _ in range(5)]
        commits = await collect(store, revisions[0], revisions[-1])
        assert [(c.revision, len(c.changes)) for c in commits] == [(revision, 50) for revision in revisions]


async def test_a_closed_store_says_so_to_callers_and_watchers(member, url):
    waiting = []
    async with EtcdStore(parse(url)) as store:
        watch = store.watch(await now(store) + 1)
        waiting.append(asyncio.create_task(anext(watch)))
        waiting.append(asyncio.create_task(collect(store, 10**9, 10**9)))
        await store.get("a")
    for call in (store.get("a"), store.commit([Put("a", b"")]), store.keep_alive(1), anext(store.watch(1))):
        with pytest.raises(Unavailable, match="closed"):
            await call
    with pytest.raises(Unavailable, match="closed"):
        await waiting[0]
    with pytest.raises((Unavailable, RevisionGone)):
        await waiting[1]
