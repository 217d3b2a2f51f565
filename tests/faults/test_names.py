"""What one gateway has acknowledged is true at the other."""

import time

import pytest

from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import callable_, meshed, say
from tests.scale import full
from tests.waiting import until

ROUNDS = full(500)
UNROUTABLE_SECONDS = 1.0


@pytest.mark.timeout(180)
async def test_a_name_routes_and_stops_routing_at_both_gateways(tmp_path):
    async with etcd(tmp_path) as member, meshed(tmp_path, f"etcd://{member.address}/mesh") as mesh:
        await mesh.start()
        slowest = 0.0
        for number in range(ROUNDS):
            name, here, there = f"mine-{number % 7}", number % 2, 1 - number % 2
            await mesh.clients[here].models.register(name, provider_model_id=f"echo-{number % 4}")
            assert await say(mesh.clients[there], name) == f"echo-{number % 4}"
            assert await callable_(mesh.clients[here], name)
            await mesh.clients[there].models.unregister(name)
            began = time.monotonic()
            for gateway in (here, there):
                await until(lambda gateway=gateway, name=name: mesh.unroutable(name, gateway), UNROUTABLE_SECONDS)
            slowest = max(slowest, time.monotonic() - began)
        assert slowest <= UNROUTABLE_SECONDS


async def test_a_name_routes_at_a_gateway_whose_snapshot_is_behind(tmp_path):
    """The control: without waiting for what others have written, the very next call would miss."""
    async with TcpProxy("") as proxy, meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1) as mesh:
        proxy.upstream = mesh.registry_addresses[0]
        mesh.gateways[1].reconfigure("registry", address=proxy.address)
        await mesh.start()
        proxy.delay(0.2)
        for number in range(5):
            await mesh.clients[0].models.register(f"mine-{number}", provider_model_id="echo-1")
            known = {route.identifier async for route in mesh.clients[1].inspect.routes()}
            assert f"mine-{number}" not in known
            assert await say(mesh.clients[1], f"mine-{number}") == "echo-1"
