"""Several registries on one etcd: any of them can take any call."""

import asyncio

import grpc
import pytest

from stackmesh.errors import MeshError
from tests.fakes import instance as fakes
from tests.fakes.etcd import etcd
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, read
from tests.integration.registry_process.replica import replica
from tests.waiting import until

TTL = 6.0


def planted(bug):
    """A registry with a bug, as the program of a replica."""
    return "-c", bug + RUN


RUN = """
import sys
from registry_service import __main__ as registry
from stackmesh.process import run

sys.exit(run("registry_service", "", registry.main, registry.check))
"""
DEAF = """
import asyncio
from registry_service.mirror.mirror import Mirror
from registry_service.mirror.source import StoreSource

async def watch(self, start_revision, store_id):
    yield await asyncio.Event().wait()

async def current(self):
    return await self.changed(None)

StoreSource.watch, Mirror.current = watch, current
"""
"""Goes by what it read at its start."""
STRANGE = """
from registry_service.instances.announce import Announce

async def lease(self, known, hello):
    row = known.instance(hello.instance_id)
    return row.lease_id if row is not None else 0, await self._store.grant(self._ttl)

Announce._lease = lease
"""
"""Gives everybody who says hello a new lease."""
LOYAL = """
from registry_service.etcd.store import EtcdStore

grant = EtcdStore.grant
EtcdStore.grant = lambda self, ttl: grant(self, 1000)
"""
"""Its leases do not end."""


@pytest.fixture
async def store(tmp_path):
    async with etcd(tmp_path) as member:
        yield f"etcd://{member.address}/mesh"


async def every_replica_knows_what_one_was_told(folder, store, *program):
    async with replica(folder, store) as one, replica(folder, store, *program) as two:
        await until(one.healthy, 20)
        await until(two.healthy, 20)
        async with one.instance({"local": FakeProvider(LLAMA)}, "i"):
            model = await two.register("llama")
            assert model == await one.get("llama") == await two.get("llama")
            assert set(await two.instances()) == {"i"}
            listed = await one.entries(page_size=1)
            rest = await two.entries(page_token=listed.next_page_token)
            assert (rest.revision, rest.store_id) == (listed.revision, listed.store_id)
            assert [e.key for e in rest.entries] == ["model/llama", "provider/inference/local"]
            async with two.watch(listed.revision + 1, listed.store_id) as watch:
                revision = await one.unregister("llama")
                while not (said := await read(watch)).changes:
                    pass
                assert [(c.entry.key, c.revision) for c in said.changes] == [("model/llama", revision)]


async def test_what_one_replica_was_told_every_replica_knows(tmp_path, store):
    await every_replica_knows_what_one_was_told(tmp_path, store)


async def test_that_check_finds_a_replica_that_knows_only_what_it_read_at_its_start(tmp_path, store):
    with pytest.raises((AssertionError, MeshError)):
        await every_replica_knows_what_one_was_told(tmp_path, store, *planted(DEAF))


async def a_lease_moves_with_its_instance(folder, store, *program):
    """Announced to one that is killed, it beats at the other: same lease, never gone, not even rewritten."""
    async with replica(folder, store, ttl=TTL) as one, replica(folder, store, *program, ttl=TTL) as two:
        await until(one.healthy, 20)
        await until(two.healthy, 20)
        async with fakes.running({"local": FakeProvider(LLAMA)}, one.address, "i") as instance:
            before, lease = (await two.instances())["i"], instance.lease_id
            one.process.kill()
            await one.process.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await instance.say(beat={})
            await instance.announce(two.channel)
            assert instance.lease_id == lease, "its lease is another one"
            ended = asyncio.get_running_loop().time() + 1.5 * TTL
            while asyncio.get_running_loop().time() < ended:
                await instance.say(beat={})
                assert (await two.instances())["i"] == before
                await asyncio.sleep(TTL / 10)  # as an instance does between its beats


async def test_a_lease_moves_with_its_instance_to_another_replica(tmp_path, store):
    await a_lease_moves_with_its_instance(tmp_path, store)


async def test_that_check_finds_a_replica_that_gives_a_new_lease(tmp_path, store):
    with pytest.raises(AssertionError, match="its lease"):
        await a_lease_moves_with_its_instance(tmp_path, store, *planted(STRANGE))


async def all_forget_who_tells_nobody(folder, store, *program, seconds=15.0):
    async with replica(folder, store, *program, ttl=2.0) as one, replica(folder, store, ttl=2.0) as two:
        await until(one.healthy, 20)
        await until(two.healthy, 20)
        async with fakes.running({"local": FakeProvider(LLAMA)}, one.address, "i"):
            assert set(await two.instances()) == {"i"}

            async def forgotten():
                return await one.instances() == await two.instances() == {}

            await until(forgotten, seconds)


async def test_an_instance_that_tells_nobody_any_more_is_forgotten_by_all(tmp_path, store):
    await all_forget_who_tells_nobody(tmp_path, store)


async def test_that_check_finds_leases_that_do_not_end(tmp_path, store):
    with pytest.raises(TimeoutError):
        await all_forget_who_tells_nobody(tmp_path, store, *planted(LOYAL), seconds=6.0)
