"""What one gateway has acknowledged is true at the other."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from stackmesh.errors import NotFound
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import callable_, meshed, say
from tests.scale import full
from tests.waiting import until

ROUNDS = full(500)
UNROUTABLE_SECONDS = 1.0
LATE_SECONDS = 2.5 * UNROUTABLE_SECONDS
"""What a change takes to a gateway where that is too long, however slow this machine is."""
AHEAD, BEHIND = 0, 1
"""Gateways; the latter hears of changes later."""


async def check_routes_at_once(mesh, here, there, name, provider_name):
    """On the very next call, through another gateway than it was registered through."""
    await mesh.clients[here].models.register(name, provider_model_id=provider_name)
    assert await say(mesh.clients[there], name) == provider_name


async def check_stops_routing(mesh, name, gateways):
    """In time, once unregistered through the first of the gateways. TimeoutError otherwise."""
    await mesh.clients[gateways[0]].models.unregister(name)
    async with asyncio.timeout(UNROUTABLE_SECONDS):
        for gateway in gateways:
            await until(lambda gateway=gateway: mesh.unroutable(name, gateway))


@pytest.mark.timeout(180)
async def test_a_name_routes_and_stops_routing_at_both_gateways(tmp_path):
    async with etcd(tmp_path) as member, meshed(tmp_path, f"etcd://{member.address}/mesh") as mesh:
        await mesh.start()
        for number in range(ROUNDS):
            name, here, there = f"mine-{number % 7}", number % 2, 1 - number % 2
            await check_routes_at_once(mesh, here, there, name, f"echo-{number % 4}")
            assert await callable_(mesh.clients[here], name)
            await check_stops_routing(mesh, name, (there, here))


@asynccontextmanager
async def one_behind(folder, program="registry_service"):
    """A mesh and the way from etcd to the registry of one of its gateways; that registry runs `program`."""
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(etcd(folder))
        proxy = await stack.enter_async_context(TcpProxy(member.address))
        store = {AHEAD: f"etcd://{member.address}/mesh", BEHIND: f"etcd://{proxy.address}/mesh"}
        mesh = await stack.enter_async_context(meshed(folder, store.__getitem__))
        mesh.registries[BEHIND].program = ("-m", program)
        for gateway in (AHEAD, BEHIND):
            mesh.gateways[gateway].reconfigure("registry", address=mesh.registry_addresses[gateway])
        await mesh.start()
        yield mesh, proxy


async def test_a_name_routes_at_a_gateway_whose_snapshot_is_behind(tmp_path):
    async with one_behind(tmp_path) as (mesh, proxy):
        proxy.delay(0.2)
        for number in range(5):
            await mesh.clients[AHEAD].models.register(f"mine-{number}", provider_model_id="echo-1")
            known = {route.identifier async for route in mesh.clients[BEHIND].inspect.routes()}
            assert f"mine-{number}" not in known
            assert await say(mesh.clients[BEHIND], f"mine-{number}") == "echo-1"


async def test_a_miss_that_is_not_settled_is_found_out(tmp_path):
    """The control: a gateway that is told it need not wait answers that there is no such name."""
    async with one_behind(tmp_path, "tests.faults.planted.behind") as (mesh, proxy):
        proxy.delay(LATE_SECONDS)
        with pytest.raises(NotFound):
            await check_routes_at_once(mesh, AHEAD, BEHIND, "mine", "echo-1")


async def test_a_name_that_stops_routing_too_late_is_found_out(tmp_path):
    """The control: one gateway hears of it, and late."""
    async with one_behind(tmp_path) as (mesh, proxy):
        await check_routes_at_once(mesh, AHEAD, BEHIND, "mine", "echo-1")
        proxy.delay(LATE_SECONDS)
        with pytest.raises(TimeoutError):
            await check_stops_routing(mesh, "mine", (AHEAD, BEHIND))
