"""Large registries and silent stores, as a client of plain gRPC sees them."""

import asyncio
import time

import grpc
import pytest

from registry_service import records
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import RegistryUnreachable, Unavailable
from stackmesh.reflector import RegistrySource
from stackmesh.registry.v1 import resources_pb2
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.registry.client import read, registry_on
from tests.waiting import until

LARGE = 700
"""Models of 15 KB each: more than two times what gRPC's clients take in one message by default."""


async def fill(store):
    for start in range(0, LARGE, 50):
        models = [resources_pb2.Model(identifier=f"m{n}", provider_id="p") for n in range(start, start + 50)]
        for model in models:
            model.metadata["note"] = "x" * 15_000
        await store.commit([Put(records.key_of(model), records.encode(model)) for model in models])


@pytest.mark.parametrize("of_the_ring", [True, False])
async def test_lists_and_replays_fit_into_the_default_message_limits(tmp_path, of_the_ring):
    """Whether the registry has seen all of it happen, or reads what came before its start."""
    store = SqliteStore(tmp_path / "r.db")
    if not of_the_ring:
        async with store:
            await fill(store)
        store = SqliteStore(tmp_path / "r.db")
    async with registry_on(store) as registry, grpc.aio.insecure_channel(registry.address) as channel:
        if of_the_ring:
            await fill(store)
        source = RegistrySource(channel)
        listed = await source.list()
        assert len(listed.entries) == LARGE
        seen = {}
        async for response in source.watch(1, listed.store_id):
            seen.update({change.entry.key: change.revision for change in response.changes})
            if response.revision >= listed.revision:
                break
        assert seen == {entry.key: entry.model.revision for entry in listed.entries}


async def to_its_end(watch):
    while True:
        await read(watch)


async def test_when_the_store_is_a_black_hole_everybody_is_told(tmp_path):
    async with etcd(tmp_path) as member, TcpProxy(member.address) as proxy:
        async with registry_on(EtcdStore(parse(f"etcd://{proxy.address}/mesh"))) as registry, asyncio.timeout(60):
            async with registry.watch(1) as watch:
                await read(watch)
                proxy.stall()
                began = time.monotonic()
                with pytest.raises(RegistryUnreachable):
                    await registry.get("m")
                assert time.monotonic() - began < 3.5  # 3 s, and the way there
                with pytest.raises(Unavailable):
                    await to_its_end(watch)
                assert time.monotonic() - began < 10
                proxy.resume()

            async def back():
                try:
                    async with registry.watch(1) as again:
                        return await read(again)
                except Unavailable:
                    return None

            await until(back, 30)
            assert time.monotonic() - began < 30
