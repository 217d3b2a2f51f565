"""Several registries on one etcd: any of them can take any call."""

import asyncio

import grpc
import pytest

from tests.fakes import instance as fakes
from tests.fakes.etcd import etcd
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, read
from tests.integration.registry_process.replica import replica
from tests.waiting import until

TTL = 6.0


@pytest.fixture
async def store(tmp_path):
    async with etcd(tmp_path) as member:
        yield f"etcd://{member.address}/mesh"


async def test_what_one_replica_was_told_every_replica_knows(tmp_path, store):
    async with replica(tmp_path, store) as one, replica(tmp_path, store) as two:
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


async def test_a_lease_moves_with_its_instance_to_another_replica(tmp_path, store):
    """Announced to one that is killed, it beats at the other: same lease, never gone, not even rewritten."""
    async with replica(tmp_path, store, ttl=TTL) as one, replica(tmp_path, store, ttl=TTL) as two:
        await until(one.healthy, 20)
        await until(two.healthy, 20)
        async with fakes.running({"local": FakeProvider(LLAMA)}, one.address, "i") as instance:
            before, lease = (await two.instances())["i"], instance.lease_id
            one.process.kill()
            await one.process.wait()
            with pytest.raises(grpc.aio.AioRpcError):
                await instance.say(beat={})
            await instance.announce(two.channel)
            assert instance.lease_id == lease
            ended = asyncio.get_running_loop().time() + 1.5 * TTL
            while asyncio.get_running_loop().time() < ended:
                await instance.say(beat={})
                assert (await two.instances())["i"] == before
                await asyncio.sleep(TTL / 10)  # as an instance does between its beats


async def test_an_instance_that_tells_nobody_any_more_is_forgotten_by_all(tmp_path, store):
    async with replica(tmp_path, store, ttl=2.0) as one, replica(tmp_path, store, ttl=2.0) as two:
        await until(one.healthy, 20)
        await until(two.healthy, 20)
        async with fakes.running({"local": FakeProvider(LLAMA)}, one.address, "i"):
            assert set(await two.instances()) == {"i"}

            async def forgotten():
                return await one.instances() == await two.instances() == {}

            await until(forgotten, 15)
