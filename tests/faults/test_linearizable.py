"""Under faults every key stays linearizable: nothing acknowledged is lost, nothing deleted comes back."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from registry_service.stores import open_store
from stackmesh.errors import Conflict, Unavailable
from stackmesh.transport import internal_channel
from tests.fakes.etcd import MAY_BE_KILLED, etcd, etcd_cluster, store_url
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.faults import cluster_faults, member_faults, network_and_member, spread
from tests.faults.history import UNKNOWN, violations
from tests.faults.mesh import meshed
from tests.faults.workload import ABSENT, GatewayRegister, StoreRegister, Workload, registry_log, store_log
from tests.scale import SOAK, full

SECONDS = full(60)
CLUSTER_SECONDS = max(SECONDS, 12)
"""A cluster needs some seconds for each of its elections."""
KEYS = [f"key-{number}" for number in range(12)]
STORE_RATE = 500.0
GATEWAY_RATE = 60.0
MADE = 0.8 if SOAK else 0.2
"""Of the calls of a run, so many are made at least; a short run on a busy machine spends most of its time on faults."""
CLIENTS = 8
_ANSWER_SECONDS = 3.0
_GIVEN_UP_SECONDS = 8.0
"""A connection to a frozen registry is closed by then."""
_WAY_SECONDS = 1.0
"""To the registry and back, for eight clients at once on a busy machine."""


async def run_on_stores(stores, faults, register=StoreRegister, seconds=SECONDS):
    """The workload on opened stores, with faults meanwhile, and what is wrong with its history."""
    start = await stores[0].revision() + 1
    work = Workload(KEYS)
    async with asyncio.TaskGroup() as group:
        group.create_task(spread(faults, seconds))
        group.create_task(work.run([register(store) for store in stores], STORE_RATE, seconds))
    await work.last_reads(register(stores[0]))
    return work, violations(work.history, await store_log(stores[0], start))


def enough(work, rate, seconds):
    """Whether it was a run at all: its calls were made, and half of them were reads."""
    reads = sum(op.kind == "read" for op in work.history)
    calls = sum(op.returned != UNKNOWN for op in work.history) + work.failed
    return calls > MADE * rate * seconds and reads > 0.4 * len(work.history)


@asynccontextmanager
async def etcd_stores(folder):
    """CLIENTS stores on one etcd, behind one proxy each half."""
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(etcd(folder, MAY_BE_KILLED))
        proxies = [await stack.enter_async_context(TcpProxy(member.address)) for _ in range(2)]
        urls = [f"etcd://{proxies[number % 2].address}/mesh" for number in range(CLIENTS)]
        stores = [await stack.enter_async_context(open_store(url)) for url in urls]
        yield stores, network_and_member(proxies, member)


@pytest.mark.timeout(SECONDS + 60)
async def test_the_etcd_store_is_linearizable_under_faults(tmp_path):
    async with etcd_stores(tmp_path) as (stores, faults):
        work, found = await run_on_stores(stores, faults)
    assert found == []
    assert enough(work, STORE_RATE, SECONDS)
    assert work.failed
    assert work.slowest <= _ANSWER_SECONDS


@asynccontextmanager
async def cluster_stores(folder):
    """CLIENTS stores on a cluster of three, a proxy before each member; they begin with different members."""
    async with AsyncExitStack() as stack:
        members = await stack.enter_async_context(etcd_cluster(folder, MAY_BE_KILLED))
        proxies = [await stack.enter_async_context(TcpProxy(member.address)) for member in members]
        ways = [proxy.address for proxy in proxies]
        urls = [store_url(*ways[number % 3 :], *ways[: number % 3]) for number in range(CLIENTS)]
        stores = [await stack.enter_async_context(open_store(url)) for url in urls]
        yield stores, cluster_faults(proxies, members)


@pytest.mark.timeout(CLUSTER_SECONDS + 90)
async def test_the_store_in_a_cluster_is_linearizable_while_members_come_and_go(tmp_path):
    async with cluster_stores(tmp_path) as (stores, faults):
        work, found = await run_on_stores(stores, faults, seconds=CLUSTER_SECONDS)
    assert found == []
    assert enough(work, STORE_RATE, CLUSTER_SECONDS)
    assert work.failed
    assert work.slowest <= _ANSWER_SECONDS


class Unconditional(StoreRegister):
    """Does not compare."""

    async def write(self, key, value, expected):
        found = await self.read(key)
        return await super().write(key, value, found.revision)


class Cached(StoreRegister):
    """Reads from a copy that is a little behind."""

    def __init__(self, store):
        super().__init__(store)
        self._copy = {}

    async def read(self, key):
        before = self._copy.get(key, ABSENT)
        self._copy[key] = await super().read(key)
        return before


class Hopeful(StoreRegister):
    """Takes a write of unknown outcome for done."""

    async def write(self, key, value, expected):
        try:
            return await super().write(key, value, expected)
        except Unavailable:
            return expected + 1


class Deaf(StoreRegister):
    """Loses every tenth write it acknowledges."""

    def __init__(self, store):
        super().__init__(store)
        self._writes = 0

    async def write(self, key, value, expected):
        self._writes += 1
        if self._writes % 10 == 0:
            return (await self.read(key)).revision + 1
        return await super().write(key, value, expected)


@pytest.mark.parametrize("register", [Unconditional, Cached, Deaf])
async def test_a_store_that_is_not_linearizable_is_found_out(tmp_path, register):
    async with open_store(f"sqlite:///{tmp_path}/r.db") as store:
        _, found = await run_on_stores([store] * CLIENTS, {}, register, seconds=1)
    assert found != []


async def test_writes_taken_for_done_are_found_out(tmp_path):
    async with etcd_stores(tmp_path) as (stores, faults):
        _, found = await run_on_stores(stores, faults, Hopeful, seconds=6)
    assert any("lost" in problem for problem in found)


@pytest.mark.timeout(SECONDS + 60)
async def test_the_sqlite_store_is_linearizable(tmp_path):
    async with open_store(f"sqlite:///{tmp_path}/r.db") as store:
        work, found = await run_on_stores([store] * CLIENTS, {})
    assert found == []
    assert enough(work, STORE_RATE, SECONDS)
    assert not work.failed


async def run_on_gateways(mesh, faults, register=GatewayRegister, seconds=SECONDS):
    """As `run_on_stores`, through both gateways of a mesh. No call waits for longer than for a frozen registry, and
    then for its store.
    """
    await mesh.start()
    start = (await mesh.health()).snapshot_revision + 1
    work = Workload(KEYS)
    async with asyncio.TaskGroup() as group:
        group.create_task(spread(faults, seconds))
        registers = [register(mesh.clients[number % 2]) for number in range(CLIENTS)]
        group.create_task(work.run(registers, GATEWAY_RATE, seconds))
    await work.last_reads(register(mesh.clients[0]))
    frozen = min(seconds / len(faults) / 2, _GIVEN_UP_SECONDS) if faults else 0
    assert work.slowest <= _ANSWER_SECONDS + frozen + _WAY_SECONDS
    async with internal_channel(mesh.registry_addresses[0]) as channel:
        return work, violations(work.history, await registry_log(channel, start))


@pytest.mark.timeout(SECONDS + 90)
async def test_names_are_linearizable_through_two_gateways_over_etcd(tmp_path):
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(etcd(tmp_path, MAY_BE_KILLED))
        proxies = [await stack.enter_async_context(TcpProxy(member.address)) for _ in range(2)]
        store = [f"etcd://{proxy.address}/mesh" for proxy in proxies]
        mesh = await stack.enter_async_context(meshed(tmp_path, store.__getitem__))
        faults = {**network_and_member(proxies, member), **member_faults(mesh.registries[0])}
        work, found = await run_on_gateways(mesh, faults)
    assert found == []
    assert enough(work, GATEWAY_RATE, SECONDS)
    assert work.failed


@pytest.mark.timeout(SECONDS + 90)
async def test_names_are_linearizable_through_two_gateways_over_sqlite(tmp_path):
    async with meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1) as mesh:
        work, found = await run_on_gateways(mesh, member_faults(mesh.registries[0]))
    assert found == []
    assert enough(work, GATEWAY_RATE, SECONDS)
    assert work.failed


class Blind(GatewayRegister):
    """Updates whatever is there."""

    async def write(self, key, value, expected):
        try:
            return await super().write(key, value, (await self.read(key)).revision)
        except Conflict:
            return await self.write(key, value, expected)


async def test_a_gateway_that_does_not_compare_is_found_out(tmp_path):
    async with meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1) as mesh:
        _, found = await run_on_gateways(mesh, {}, Blind, seconds=5)
    assert any("did not expect" in problem for problem in found)
