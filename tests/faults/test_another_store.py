"""The store is replaced by another one under a running mesh: what gateways route is the one, then the other, no mix."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from registry_service import records
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import MeshError
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.tasks import background
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import MODEL, PROVIDER, meshed, say
from tests.waiting import until

OLD = {f"old-{n}" for n in range(5)}
NEW = {f"new-{n}" for n in range(5)}
SECONDS = 30.0
LEASE_TTL = 5.0
"""After a third of it an instance hears that it is not known, and announces itself anew."""

ONE_STORE = (
    "-c",
    """
import sys
from registry_service import __main__ as registry
from registry_service.etcd.store import EtcdStore
from registry_service.sqlite.store import SqliteStore
from stackmesh.process import run

async def store_id(self):
    return "the-store"

EtcdStore.store_id = SqliteStore.store_id = store_id
sys.exit(run("registry_service", "", registry.main, registry.check))
""",
)
"""A planted bug: a registry that takes every store for the same."""


async def furnish(store):
    """Make it another mesh's store, which has come further than this one's. Gives its revision."""
    async with store:
        for number in range(200):
            name = f"new-{number % 5}"
            row = pb.Model(identifier=name, provider_id=PROVIDER, provider_resource_id="echo-1", source=pb.SOURCE_USER)
            revision = await store.commit([Put(records.key_of(row), records.encode(row))])
    return revision


async def routed(client):
    return {route.identifier async for route in client.inspect.routes()}


async def all_answer(client, names):
    try:
        return {await say(client, name) for name in names} == {"echo-1"}
    except MeshError:
        return False


@asynccontextmanager
async def watched(client):
    """Whatever is routed while the body runs."""
    seen = [await routed(client)]

    async def watch():
        while True:
            seen.append(await routed(client))
            await asyncio.sleep(0.01)

    async with background(watch(), "watch the routes"):
        yield seen


def mixed(seen):
    return any(routes & OLD and routes & NEW for routes in seen)


async def is_replaced(mesh, replace, new_revision):
    """From a mesh that routes by the one store to one that routes by the other."""
    await mesh.start()
    client = mesh.clients[0]
    for name in OLD:
        old_revision = (await client.models.register(name, provider_model_id="echo-1")).revision
    assert old_revision < new_revision, "the revision alone would tell"
    await until(lambda: all_answer(client, OLD), SECONDS)
    async with watched(client) as seen:

        async def settled():
            return mixed(seen) or (seen[-1] == NEW | {MODEL} and await all_answer(client, NEW))

        await replace()
        await until(settled, SECONDS)
        assert not mixed(seen), "it was a mix"
    for name in OLD:
        assert await mesh.unroutable(name, 0)


async def another_etcd(folder, program=None):
    """Another cluster is at the same address from one moment to the next."""
    (folder / "other").mkdir()
    async with etcd(folder) as one, etcd(folder / "other") as other, TcpProxy(one.address) as proxy:
        async with meshed(folder, f"etcd://{proxy.address}/mesh", gateways=1, lease_ttl=LEASE_TTL) as mesh:
            for registry in mesh.registries:
                registry.program = program or registry.program

            async def replace():
                proxy.upstream = other.address
                proxy.cut()
                one.kill()

            revision = await furnish(EtcdStore(parse(f"etcd://{other.address}/mesh")))
            await is_replaced(mesh, replace, revision)


async def another_file(folder, program=None):
    """The registry is started again on another file."""
    one, other = folder / "one.db", folder / "other.db"
    async with meshed(folder, f"sqlite:///{one}", registries=1, gateways=1, lease_ttl=LEASE_TTL) as mesh:
        [registry] = mesh.registries
        registry.program = program or registry.program

        async def replace():
            await registry.stop()
            registry.reconfigure("registry", store=f"sqlite:///{other}")
            await registry.start()

        await is_replaced(mesh, replace, await furnish(SqliteStore(other)))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("check", [another_etcd, another_file])
async def test_a_gateway_routes_by_the_other_store_alone(tmp_path, check):
    await check(tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("check", [another_etcd, another_file])
async def test_that_check_finds_a_registry_that_takes_every_store_for_the_same(tmp_path, check):
    with pytest.raises(AssertionError, match="it was a mix"):
        await check(tmp_path, ONE_STORE)
