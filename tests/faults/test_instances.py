"""Instances and registries that freeze, die and come back."""

import asyncio
import time

import pytest

from stackmesh.transport import internal_channel
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import callable_, calling, meshed, registered
from tests.faults.workload import registry_changes
from tests.scale import SOAK
from tests.waiting import until

FROZEN_SECONDS = 20.0
AWAY_SECONDS = 7.0
BACK_SECONDS = 10.0
LEASE_TTL = 15.0 if SOAK else 3.0


async def hosting(mesh, count):
    """Whether so many instances are in the rotation of every gateway."""
    found = await asyncio.gather(*(mesh.hosting(gateway) for gateway in range(len(mesh.clients))))
    return {len(instances) for instances in found} == {count}


async def ids(mesh):
    return {instance.instance_id for instance in await mesh.hosting()}


async def passed(seconds):
    """Let so much time go by, of which something is said."""
    end = time.monotonic() + seconds
    await until(lambda: time.monotonic() > end, seconds + 5)


async def check_out_and_back(mesh):
    before = await ids(mesh)
    mesh.instances[1].freeze()
    began = time.monotonic()
    await until(lambda: hosting(mesh, 1), FROZEN_SECONDS)
    async with calling(mesh.clients[0]) as calls:
        await passed(FROZEN_SECONDS - (time.monotonic() - began) if SOAK else 1)
    assert calls.made > 10
    assert calls.failed == []
    mesh.instances[1].thaw()
    await until(lambda: hosting(mesh, 2), BACK_SECONDS)
    assert await ids(mesh) == before


@pytest.mark.timeout(90)
async def test_a_frozen_instance_is_out_of_rotation_and_back_by_itself(tmp_path):
    async with etcd(tmp_path) as member:
        async with meshed(tmp_path, f"etcd://{member.address}/mesh", instances=2, lease_ttl=LEASE_TTL) as mesh:
            await mesh.start()
            await until(lambda: hosting(mesh, 2))
            await check_out_and_back(mesh)


@pytest.mark.timeout(90)
async def test_a_frozen_instance_whose_lease_does_not_end_stays_in_rotation(tmp_path):
    """The control."""
    async with meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1, instances=2, lease_ttl=3600) as mesh:
        await mesh.start()
        await until(lambda: hosting(mesh, 2))
        mesh.instances[1].freeze()
        with pytest.raises(TimeoutError):
            await until(lambda: hosting(mesh, 1), 3 * LEASE_TTL)


async def deletions(mesh, start):
    """The keys of instances that were deleted since a revision."""
    async with internal_channel(mesh.registry_addresses[-1]) as channel:
        changes = await registry_changes(channel, start)
    return {c.entry.key for c in changes if c.entry.key.startswith("instance/") and not c.entry.HasField("instance")}


async def places_lost(folder, lease_ttl):
    """The instances that lose their place while etcd is away, and the calls that fail."""
    async with etcd(folder) as member, TcpProxy(member.address) as proxy:
        async with meshed(folder, f"etcd://{proxy.address}/mesh", instances=2, lease_ttl=lease_ttl) as mesh:
            await mesh.start()
            await until(lambda: hosting(mesh, 2))
            start = (await mesh.health()).snapshot_revision + 1
            async with calling(mesh.clients[0]) as calls:
                proxy.stall()
                await passed(AWAY_SECONDS)
                proxy.resume()
                await passed(min(lease_ttl, 3 if not SOAK else lease_ttl))
                await until(lambda: hosting(mesh, 2), 20)
                await until(mesh.in_step, 30)
            return await deletions(mesh, start), calls.failed


@pytest.mark.timeout(90)
async def test_etcd_away_for_a_while_costs_no_instance_its_place(tmp_path):
    assert await places_lost(tmp_path, 15.0) == (set(), [])


@pytest.mark.timeout(90)
async def test_etcd_away_for_longer_than_a_lease_costs_places_but_no_call(tmp_path):
    """The control of what is counted; and what loses its place so is still called until it is back."""
    lost, failed = await places_lost(tmp_path, 2.0)
    assert len(lost) == 2
    assert failed == []


@pytest.mark.timeout(120)
async def test_everything_goes_on_with_the_other_registry(tmp_path):
    async with etcd(tmp_path) as member:
        async with meshed(tmp_path, f"etcd://{member.address}/mesh", lease_ttl=LEASE_TTL) as mesh:
            await mesh.start()
            before = await ids(mesh)
            async with calling(mesh.clients[0]) as calls:
                for killed in (0, 1):
                    await mesh.registries[killed].kill()
                    for number, client in enumerate(mesh.clients):
                        name = f"mine-{killed}-{number}"
                        await until(lambda client=client, name=name: registered(client, name), 5)
                        await until(lambda other=1 - number, name=name: callable_(mesh.clients[other], name), 5)
                    await passed(1.5 * LEASE_TTL)
                    assert not await mesh.stale()
                    assert await ids(mesh) == before
                    await mesh.registries[killed].start()
            assert calls.failed == []


@pytest.mark.timeout(120)
async def test_everything_goes_on_while_a_registry_is_frozen(tmp_path):
    async with etcd(tmp_path) as member:
        async with meshed(tmp_path, f"etcd://{member.address}/mesh", registries=2, instances=2) as mesh:
            await mesh.start()
            await until(lambda: hosting(mesh, 2))
            before, start = await ids(mesh), (await mesh.health()).snapshot_revision + 1
            async with calling(mesh.clients[0]) as calls:
                mesh.registries[0].freeze()
                for number, client in enumerate(mesh.clients):
                    name = f"mine-{number}"
                    await until(lambda client=client, name=name: registered(client, name), FROZEN_SECONDS)
                    await until(lambda other=1 - number, name=name: callable_(mesh.clients[other], name), 10)
                await until(mesh.in_step, FROZEN_SECONDS)
                mesh.registries[0].thaw()
                await until(mesh.in_step, 30)
            assert calls.failed == []
            assert await ids(mesh) == before
            assert await deletions(mesh, start) == set()
