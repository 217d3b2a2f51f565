"""Instances and registries that freeze, die and come back."""

import asyncio
import time
from contextlib import asynccontextmanager

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
KILLED_SECONDS = 5.0
FREEZE_NOTICED_SECONDS = 12.0
"""A connection to a frozen process is given up within 8 s; what was asked over it is asked again."""
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


async def check_registering_goes_on(mesh, what, seconds):
    """Through every gateway, in time, and the name is known to the other one. TimeoutError otherwise."""
    for number, client in enumerate(mesh.clients):
        name = f"{what}-{number}"
        await until(lambda client=client, name=name: registered(client, name), seconds)
        await until(lambda other=1 - number, name=name: callable_(mesh.clients[other], name), seconds)


async def check_places_are_kept(mesh, before, seconds=1.5 * LEASE_TTL):
    """For longer than a lease lives."""
    await passed(seconds)
    assert not await mesh.stale()
    assert await ids(mesh) == before


@asynccontextmanager
async def over_etcd(folder, alone=(), **options):
    """A running mesh of two registries, of which some know the first alone."""
    async with etcd(folder) as member, meshed(folder, f"etcd://{member.address}/mesh", **options) as mesh:
        for one in mesh.members:
            if one.name.startswith(tuple(alone)):
                one.reconfigure("registry", address=mesh.registry_addresses[0])
        await mesh.start()
        await until(lambda: hosting(mesh, len(mesh.instances)))
        yield mesh


@pytest.mark.timeout(120)
async def test_everything_goes_on_with_the_other_registry(tmp_path):
    async with over_etcd(tmp_path, lease_ttl=LEASE_TTL) as mesh:
        before = await ids(mesh)
        async with calling(mesh.clients[0]) as calls:
            for killed in (0, 1):
                await mesh.registries[killed].kill()
                await check_registering_goes_on(mesh, f"mine-{killed}", KILLED_SECONDS)
                await check_places_are_kept(mesh, before)
                await mesh.registries[killed].start()
        assert calls.failed == []


@pytest.mark.timeout(120)
async def test_everything_goes_on_while_a_registry_is_frozen(tmp_path):
    async with over_etcd(tmp_path, instances=2) as mesh:
        before, start = await ids(mesh), (await mesh.health()).snapshot_revision + 1
        async with calling(mesh.clients[0]) as calls:
            mesh.registries[0].freeze()
            await check_registering_goes_on(mesh, "mine", FREEZE_NOTICED_SECONDS)
            await until(mesh.in_step, FROZEN_SECONDS)
            mesh.registries[0].thaw()
            await until(mesh.in_step, 30)
        assert calls.failed == []
        assert await ids(mesh) == before
        assert await deletions(mesh, start) == set()


async def test_gateways_that_know_one_registry_alone_register_nothing_without_it(tmp_path):
    """The control."""
    async with over_etcd(tmp_path, alone=["gateway"]) as mesh:
        await mesh.registries[0].kill()
        with pytest.raises(TimeoutError):
            await check_registering_goes_on(mesh, "mine", KILLED_SECONDS)


@pytest.mark.slow
async def test_gateways_that_know_one_registry_alone_register_nothing_while_it_is_frozen(tmp_path):
    """The control."""
    async with over_etcd(tmp_path, alone=["gateway"]) as mesh:
        mesh.registries[0].freeze()
        with pytest.raises(TimeoutError):
            await check_registering_goes_on(mesh, "mine", FREEZE_NOTICED_SECONDS)


@pytest.mark.timeout(90)
async def test_instances_that_know_one_registry_alone_lose_their_places_without_it(tmp_path):
    """The control; gateways go on, and hear of it."""
    async with over_etcd(tmp_path, alone=["inference"], lease_ttl=LEASE_TTL) as mesh:
        before = await ids(mesh)
        await mesh.registries[0].kill()
        await until(lambda: hosting(mesh, 0), FROZEN_SECONDS + LEASE_TTL)
        with pytest.raises(AssertionError):
            await check_places_are_kept(mesh, before, 0)
        assert not await mesh.stale()
