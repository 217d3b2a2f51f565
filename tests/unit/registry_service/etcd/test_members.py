"""A member that fails is left for another; an etcd that is away, or is another one, is said to be so."""

import asyncio
import logging
import time
from contextlib import aclosing, asynccontextmanager

import pytest

from registry_service.etcd.client import Client
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.etcd.watch import Watch
from registry_service.store import Put
from stackmesh.errors import MeshError, RegistryUnreachable, RevisionGone
from tests.contracts.store import collect, next_change, now
from tests.fakes.etcd import etcd, etcd_cluster, store_url
from tests.fakes.tcp_proxy import TcpProxy
from tests.ports import free_port
from tests.waiting import until

ROUNDS = 40


async def works(store):
    """Whether everything can be done again."""
    try:
        revision = await store.commit([Put("a", b"1")])
        assert (await store.get("a")).revision == revision == await store.revision()
        assert await store.keep_alive(await store.grant(5))
        assert await collect(store, revision, revision)
    except RegistryUnreachable:
        return False
    return True


async def survives(folder, fault, known):
    """With one member gone the store goes on, if it knows the others."""
    async with etcd_cluster(folder) as members:
        addresses = [member.address for member in members][:known]
        async with EtcdStore(parse(store_url(*addresses))) as store:
            lease = await store.grant(30)
            assert await store.keep_alive(lease)
            fault(members[0])
            begin = time.monotonic()
            assert await store.revision() == 0
            assert time.monotonic() - begin < 3
            assert await store.keep_alive(lease)
            await until(lambda: works(store), 10)


@pytest.mark.parametrize("fault", ["kill", "stop"])
async def test_a_member_that_is_gone_is_left_for_another(tmp_path, fault):
    await survives(tmp_path, lambda member: getattr(member, fault)(), known=3)


async def test_that_check_finds_a_store_that_knows_one_member(tmp_path):
    with pytest.raises(RegistryUnreachable):
        await survives(tmp_path, lambda member: member.kill(), known=1)


async def once_each(member, prefix, kind):
    """Whatever is cut off, reads go on and no write is done twice."""
    async with TcpProxy(member.address) as proxy, kind(parse(store_url(proxy.address, prefix=prefix))) as store:
        start = await store.commit([Put("a", b"")])
        unknown = 0
        for n in range(ROUNDS):
            proxy.cut_after(n)
            try:
                await store.commit([Put("a", b"%d" % n)])
            except RegistryUnreachable:
                unknown += 1
            assert await store.get("a")
        last = await store.commit([Put("a", b"last")])
        values = [change.value for commit in await collect(store, start, last) for change in commit.changes]
        assert len(values) == len(set(values)) >= ROUNDS + 2 - unknown
        assert unknown


async def test_no_write_is_done_twice(member, prefix):
    await once_each(member, prefix, EtcdStore)


class Repeating(EtcdStore):
    async def _txn(self, *args, repeatable):
        return await super()._txn(*args, repeatable=True)


async def test_that_check_finds_a_store_that_repeats_writes(member, prefix):
    with pytest.raises(AssertionError):
        await once_each(member, prefix, Repeating)


async def test_a_write_that_could_not_be_sent_is_sent_to_another_member(member, prefix):
    nobody = f"127.0.0.1:{free_port()}"
    async with TcpProxy(member.address) as hole:
        hole.stall()
        for first in (nobody, hole.address, "etcd-0.invalid:2379"):
            async with EtcdStore(parse(store_url(first, member.address, prefix=prefix))) as store:
                revision = await store.commit([Put("a", b"1")])
                assert await store.revision() == revision


class Impatient(EtcdStore):
    """Gives a write no more time than a member may take to get ready for it."""

    def __init__(self, location):
        super().__init__(location)
        self._client = ImpatientClient(location)


class ImpatientClient(Client):
    async def call(self, method, request, *, repeatable):
        async with asyncio.timeout(self.patience):
            return await super().call(method, request, repeatable=repeatable)


async def writes_over_a_slow_link(member, prefix, kind=EtcdStore):
    """What has been sent is waited for, however many members there are."""
    async with TcpProxy(member.address) as proxy:
        async with kind(parse(store_url(*[proxy.address] * 3, prefix=prefix))) as store:
            await store.commit([Put("a", b"1")])
            proxy.delay(0.5)  # in both directions
            await store.commit([Put("a", b"2")])


async def test_a_write_that_was_sent_is_waited_for(member, prefix):
    await writes_over_a_slow_link(member, prefix)


async def test_that_check_finds_a_store_that_does_not_wait(member, prefix):
    with pytest.raises(RegistryUnreachable):
        await writes_over_a_slow_link(member, prefix, Impatient)


@pytest.mark.parametrize("fault", ["refuse", "stall"])
async def test_an_etcd_that_is_away_is_said_to_be_so_in_time_and_comes_back(member, prefix, fault):
    async with TcpProxy(member.address) as proxy, EtcdStore(parse(store_url(proxy.address, prefix=prefix))) as store:
        lease = await store.grant(30)
        if fault == "refuse":
            await proxy.refuse()
        else:
            proxy.stall()
        calls = (
            lambda: store.commit([Put("a", b"1")]),
            lambda: store.get("a"),
            lambda: store.list(""),
            store.revision,
            store.store_id,
            lambda: store.grant(5),
            lambda: store.keep_alive(lease),
            lambda: store.revoke(lease + 1),
            lambda: store.compact(1),
            lambda: anext(store.watch(1)),
        )
        for call in calls:
            begin = time.monotonic()
            with pytest.raises(RegistryUnreachable, match=f"etcd at {proxy.address}"):
                await call()
            assert time.monotonic() - begin < 3
        await proxy.accept()
        proxy.resume()
        await until(lambda: works(store), 5)
        assert await store.keep_alive(lease)


class Unhurried(EtcdStore):
    @asynccontextmanager
    async def _in_time(self):
        yield


async def revokes_slowly(member, prefix, kind):
    """What takes several calls takes no more time than one, when etcd is slow."""
    async with TcpProxy(member.address) as proxy, kind(parse(store_url(proxy.address, prefix=prefix))) as store:
        lease = await store.grant(30)
        await store.commit([Put("a", b"1", lease)])
        proxy.delay(0.5)  # in both directions
        begin = time.monotonic()
        with pytest.raises(RegistryUnreachable):
            await store.revoke(lease)
        assert time.monotonic() - begin < 3


async def test_what_takes_several_calls_ends_in_time(member, prefix):
    await revokes_slowly(member, prefix, EtcdStore)


async def test_that_check_finds_a_store_that_limits_single_calls_only(member, prefix):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await revokes_slowly(member, prefix, Unhurried)


async def test_a_store_opens_without_its_etcd_and_works_when_it_is_there(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    async with etcd(tmp_path) as member:
        member.kill()
        async with EtcdStore(parse(store_url(member.address))) as store:
            assert "Connection refused" in caplog.text
            with pytest.raises(RegistryUnreachable, match="Connection refused"):
                await store.get("a")
            await member.restart()
            await until(lambda: works(store), 5)


async def test_leases_survive_an_etcd_that_is_away_for_a_while(tmp_path):
    async with etcd(tmp_path) as member, EtcdStore(parse(store_url(member.address))) as store:
        lease = await store.grant(3)
        await store.commit([Put("a", b"1", lease)])
        member.kill()
        await asyncio.sleep(4)  # longer than the lease has to live
        await member.restart()
        await until(lambda: works(store), 5)
        assert await store.keep_alive(lease)
        assert await store.get("a")


class Trusting(EtcdStore):
    """Takes every cluster for the one it knows."""

    def watch(self, start_revision):
        return TrustingWatch(self._client, self._layout, self._identity, start_revision, self._silence).commits()


class TrustingWatch(Watch):
    async def _check_start(self):
        self._client.cluster = 0
        await super()._check_start()


async def replaced(folder, kind):
    """Another cluster behind the same address: no watch goes on as if nothing had been."""
    for name in ("old", "new"):
        (folder / name).mkdir()
    async with etcd(folder / "old") as old, etcd(folder / "new") as new, TcpProxy(old.address) as proxy:
        location = parse(store_url(proxy.address))
        async with kind(location) as store:
            before = await store.store_id()
            start = await store.commit([Put("a", b"1")])
            async with aclosing(store.watch(start)) as watch:
                await next_change(watch)
                async with EtcdStore(parse(store_url(new.address))) as other:
                    for n in range(10):
                        await other.commit([Put("b", b"%d" % n)])
                proxy.upstream = new.address
                proxy.cut()
                with pytest.raises(MeshError):
                    await next_change(watch)
            async with aclosing(store.watch(start + 1)) as watch:
                with pytest.raises(RevisionGone, match="replaced"):
                    await next_change(watch)
            assert await store.store_id() != before
            assert await collect(store, await now(store), await now(store))


async def test_a_replaced_cluster_is_noticed(tmp_path):
    await replaced(tmp_path, EtcdStore)


async def test_that_check_finds_a_store_that_trusts_every_cluster(tmp_path):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await replaced(tmp_path, Trusting)
