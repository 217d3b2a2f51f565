"""A registry that starts before its store."""

import asyncio

import pytest

from stackmesh.errors import RegistryUnreachable, Unavailable
from tests.fakes.etcd import Etcd, etcd
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, read
from tests.integration.registry_process.replica import replica
from tests.waiting import until

LIMIT = 5.0
"""Seconds in which a call is answered: 3, and some for a slow machine."""


async def test_without_its_store_it_listens_says_why_and_serves_when_the_store_is_there(tmp_path):
    member = Etcd(tmp_path)
    try:
        yaml = "providers: {inference: [{provider_id: local, provider_type: 'inline::fake'}]}"
        async with replica(tmp_path, f"etcd://{member.address}/mesh", text=yaml) as registry:
            assert not await registry.healthy()
            for method in (registry.get, registry.register, registry.unregister):
                async with asyncio.timeout(LIMIT):
                    with pytest.raises(RegistryUnreachable, match=member.address):
                        await method("llama")
            async with asyncio.timeout(LIMIT), registry.watch(1) as watch:
                with pytest.raises(Unavailable):
                    await read(watch)
            member.start()
            await member.ready()
            await until(registry.healthy, 30)
            assert (await registry.provider("local")).provider_type == "inline::fake"
            async with registry.instance({"local": FakeProvider(LLAMA)}):
                assert (await registry.register("llama")).provider_id == "local"
    finally:
        member.kill()


async def test_what_somebody_has_to_change_first_ends_it(tmp_path):
    async with etcd(tmp_path) as member:
        await member.require_password("right")
        async with replica(tmp_path, f"etcd://root:wrong@{member.address}/mesh") as registry:
            async with asyncio.timeout(20):
                _, err = await registry.process.communicate()
            assert registry.process.returncode == 78
            assert b"wrong@" not in err


async def test_health_follows_the_store(tmp_path):
    async with etcd(tmp_path) as member, replica(tmp_path, f"etcd://{member.address}/mesh") as registry:
        await until(registry.healthy, 20)
        member.stop()

        async def unhealthy():
            return not await registry.healthy()

        await until(unhealthy, 20)
        member.resume()
        await until(registry.healthy, 30)
