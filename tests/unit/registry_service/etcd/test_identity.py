"""Which store it is: one whose id is gone, or another, is not taken for the one that was read before."""

import asyncio
from contextlib import aclosing, suppress

import pytest

from registry_service import records
from registry_service.etcd.identity import Identity
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.etcd.watch import Watch
from registry_service.mirror.mirror import Mirror
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable, RevisionGone
from stackmesh.registry.v1 import resources_pb2
from stackmesh.tasks import background
from tests.contracts.store import collect, next_change, now
from tests.fakes.etcd import etcd, store_url
from tests.fakes.tcp_proxy import TcpProxy
from tests.waiting import until


def put(name):
    model = resources_pb2.Model(identifier=name)
    return Put(records.key_of(model), records.encode(model))


def models(known):
    return set(known.by_prefix.get("model/", ()))


class Blind(EtcdStore):
    """Does not look at its id."""

    def watch(self, start_revision):
        return BlindWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class BlindWatch(Watch):
    def _renames(self, event):
        return False


async def wiped(member, url, kind):
    """After everything below the prefix was deleted by hand, a mirror reads and the store is written as before."""
    async with kind(parse(url)) as store:
        await store.commit([put("a")])
        mirror = Mirror(store)
        async with background(mirror.run(), "mirror"):
            assert models(await mirror.current()) == {"a"}
            before = await store.store_id()
            await member.ctl("del", "--prefix", f"{parse(url).prefix}/")
            await until(lambda: models(mirror.known) == set())
            await store.commit([put("b")])
            known = await mirror.current()
            assert models(known) == {"b"}
            assert known.store_id == await store.store_id() != before


async def test_a_store_that_was_wiped_is_another_one(member, url):
    await wiped(member, url, EtcdStore)


async def test_that_check_finds_a_watch_that_does_not_see_it(member, url):
    with pytest.raises((RegistryUnreachable, AssertionError)):
        await wiped(member, url, Blind)


@pytest.mark.parametrize("change", [("put", "{}/id", "another"), ("del", "{}/id")])
async def test_a_watch_ends_where_the_id_changes(member, prefix, url, change):
    async with EtcdStore(parse(url)) as store:
        first = await store.commit([Put("a", b"1")])
        async with asyncio.timeout(5), aclosing(store.watch(first)) as watch:
            assert (await next_change(watch)).revision == first
            await member.ctl(*(part.format(prefix) for part in change))
            with pytest.raises(RevisionGone, match="another one"):
                await next_change(watch)


async def test_a_watch_does_not_go_on_over_the_loss_of_the_id(member, prefix, url):
    async with EtcdStore(parse(url)) as store:
        first = await store.commit([Put("a", b"1")])
        await member.ctl("del", f"{prefix}/id")
        await store.store_id()
        with pytest.raises(RevisionGone, match="another one"):
            await collect(store, first, await now(store))
        after = await now(store) + 1
        revision = await store.commit([Put("a", b"2")])
        assert [c.revision for c in await collect(store, after, revision)] == [revision]


class Credulous(EtcdStore):
    """Takes what bears its id for what it knows."""

    def __init__(self, location, **options):
        super().__init__(location, **options)
        self._identity = CredulousIdentity(self._client, self._layout)


class CredulousIdentity(Identity):
    async def _gone_on(self, seen, now):
        return True


async def restored(folder, kind=EtcdStore, *, commits):
    """An older copy in the store's place, in which so much has happened since: a mirror does not go on as before."""
    async with etcd(folder) as member, TcpProxy(member.address) as proxy:
        async with kind(parse(store_url(proxy.address))) as store, EtcdStore(parse(store_url(member.address))) as other:
            await store.commit([put("kept")])
            await member.ctl("snapshot", "save", str(folder / "copy"))
            await store.commit([put("lost")])
            mirror = Mirror(store)
            async with background(mirror.run(), "mirror"):
                assert models(await mirror.current()) == {"kept", "lost"}
                before = await store.store_id()
                await proxy.refuse()
                await member.restore(folder / "copy")
                for n in range(commits):
                    await until(lambda name=f"new{n}": written(other, name))
                await proxy.accept()
                await until(lambda: f"new{commits - 1}" in models(mirror.known))
                assert models(mirror.known) == {"kept", *(f"new{n}" for n in range(commits))}
                assert mirror.known.store_id == await store.store_id() == await other.store_id() != before


async def written(store, name):
    with suppress(RegistryUnreachable):
        return await store.commit([put(name)])


@pytest.mark.parametrize("commits", [1, 2, 3])
async def test_an_older_copy_of_itself_is_another_store(tmp_path, commits):
    await restored(tmp_path, commits=commits)


async def test_that_check_finds_a_store_that_goes_by_its_id_alone(tmp_path):
    with pytest.raises(AssertionError):
        await restored(tmp_path, Credulous, commits=3)


async def test_what_was_seen_may_be_compacted(url):
    async with EtcdStore(parse(url)) as store, EtcdStore(parse(f"{url}-busy")) as busy, EtcdStore(parse(url)) as other:
        await store.commit([Put("a", b"1")])
        before = await store.store_id()
        last = [await busy.commit([Put("a", b"%d" % n)]) for n in range(3)][-1]
        await busy.compact(last)
        assert await store.store_id() == before
        revision = await other.commit([Put("a", b"2")])
        await busy.compact(revision)
        assert await store.store_id() == before
        assert [c.revision for c in await collect(store, last + 1, revision)] == [revision]


async def test_a_watch_from_the_first_revision_on_is_of_one_store(tmp_path):
    async with etcd(tmp_path) as member, EtcdStore(parse(store_url(member.address))) as store:
        revisions = [await store.commit([Put("a", b"%d" % n)]) for n in range(2)]
        assert [c.revision for c in await collect(store, 1, revisions[-1])] == revisions
