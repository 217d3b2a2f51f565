"""etcd goes away for a long time, in every way it can, under a running mesh."""

import asyncio
import time
import urllib.request
from contextlib import aclosing, asynccontextmanager

import pytest

from stackmesh.client import Client
from stackmesh.errors import RegistryUnreachable, Unavailable
from stackmesh.reflector import RegistrySource
from stackmesh.transport import internal_channel
from tests.fakes.etcd import MAY_BE_KILLED, etcd, etcd_cluster
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import MODEL, PROVIDER, callable_, calling, meshed, registered, say
from tests.scale import SOAK, full
from tests.waiting import until

NOTICED_SECONDS = 10.0
QUORUM_NOTICED_SECONDS = 15.0
"""A member that has lost the others answers for some seconds more, before it says that there is no leader."""
REFUSED_SECONDS = 3.0
IN_STEP_SECONDS = 30.0
LAST_GOOD_SECONDS = 5.0
LEASE_TTL = 15.0 if SOAK else 5.0
"""Shorter than every outage, so that no outage is too short to end leases."""


async def stale_everywhere(mesh):
    return all(await asyncio.gather(*(mesh.stale(gateway) for gateway in range(len(mesh.clients)))))


async def gauge(mesh, gateway, name):
    """What Prometheus would read."""
    url = f"http://{mesh.metrics_addresses[gateway]}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


async def check_refused(call):
    """It fails with UNAVAILABLE, within its time; TimeoutError after it."""
    async with asyncio.timeout(REFUSED_SECONDS):
        with pytest.raises(Unavailable):
            await call


async def check_noticed(mesh, began, seconds=NOTICED_SECONDS):
    """Every gateway says that what it knows may be old, within its time since the outage began."""
    await until(lambda: stale_everywhere(mesh), seconds - (time.monotonic() - began))
    for gateway in range(len(mesh.clients)):
        assert await gauge(mesh, gateway, "stackmesh_snapshot_stale") == 1


async def check_writes_are_refused(mesh, revision):
    """All kinds of writes, through every gateway; and what only the registry knows. All at once, as users do it."""
    async with asyncio.TaskGroup() as group:
        for client in mesh.clients:
            models = client.models
            for call in (
                models.register("late", provider_model_id="echo-1"),
                models.update("mine", expected_revision=revision, metadata={"late": True}),
                models.unregister("mine"),
                models.get("mine"),
                anext(models.list()),
                say(client, "never-heard-of"),
            ):
                group.create_task(check_refused(call))


async def told_silent(address):
    """Whether a registry refuses who begins to watch because it has not heard its store."""
    async with internal_channel(address) as channel, aclosing(RegistrySource(channel).watch(1, "")) as said:
        try:
            await anext(said)
        except RegistryUnreachable as error:
            return "the store has been silent" in error.message
    return False


async def check_watches_are_refused_unasked(mesh):
    """By what the registry knows of its store. Who waited for the store itself would come back with all the others."""
    for address in mesh.registry_addresses:
        await until(lambda address=address: told_silent(address), NOTICED_SECONDS)


async def check_reads(mesh):
    """What a gateway knows it tells, and says that it may be old; what the registry alone knows is not made up."""
    for gateway, client in enumerate(mesh.clients):
        routes = {route.identifier: route async for route in client.inspect.routes()}
        for name in (MODEL, "mine"):
            assert len(routes[name].addresses) == len(mesh.instances)
        assert [p.provider.provider_id for p in await client.inspect.providers()] == [PROVIDER]
        assert len(await mesh.hosting(gateway)) == len(mesh.instances)
        health = await client.inspect.health()
        assert health.snapshot_stale
        assert any("silent" in problem for problem in health.problems)
        assert await gauge(mesh, gateway, "stackmesh_snapshot_stale") == 1


async def announced(mesh):
    """Whether the registry knows every instance."""
    try:
        return len([one async for one in mesh.clients[0].instances.list()]) == len(mesh.instances)
    except Unavailable:
        return False


async def check_everything_is_back(mesh):
    """Within the limit, after the return."""
    async with asyncio.timeout(IN_STEP_SECONDS):
        await until(lambda: announced(mesh), IN_STEP_SECONDS)
        await until(mesh.in_step, IN_STEP_SECONDS)
        await mesh.clients[0].models.register("after", provider_model_id="echo-2")
        assert await say(mesh.clients[1], "after") == "echo-2"
    for gateway in range(len(mesh.clients)):
        assert len(await mesh.hosting(gateway)) == len(mesh.instances)
        assert await gauge(mesh, gateway, "stackmesh_snapshot_stale") == 0


async def check_outage(mesh, begin, end, seconds):
    """From before it to after it."""
    revision = (await mesh.clients[0].models.register("mine", provider_model_id="echo-1")).revision
    assert not await stale_everywhere(mesh)
    async with calling(mesh.clients[0]) as some, calling(mesh.clients[1], "mine") as others:
        begin()
        began = time.monotonic()
        over = began + seconds
        await check_writes_are_refused(mesh, revision)
        await check_noticed(mesh, began)
        await check_watches_are_refused_unasked(mesh)
        await check_writes_are_refused(mesh, revision)
        await until(lambda: time.monotonic() > over, seconds)
        assert await stale_everywhere(mesh)
        end()
        await check_everything_is_back(mesh)
    for calls in (some, others):
        assert calls.failed == []
        assert calls.made > 5 * seconds


@pytest.mark.timeout(180)
async def test_etcd_behind_a_black_hole(tmp_path):
    async with etcd(tmp_path) as member, TcpProxy(member.address) as proxy:
        async with meshed(tmp_path, f"etcd://{proxy.address}/mesh", instances=2, lease_ttl=LEASE_TTL) as mesh:
            await mesh.start()
            await check_outage(mesh, proxy.stall, proxy.resume, full(60))


@pytest.mark.timeout(180)
async def test_etcd_frozen(tmp_path):
    async with etcd(tmp_path) as member:
        async with meshed(tmp_path, f"etcd://{member.address}/mesh", instances=2, lease_ttl=LEASE_TTL) as mesh:
            await mesh.start()
            await check_outage(mesh, member.stop, member.resume, full(30))


REASSURED, HELD = 0, 1
"""Gateways: that of the registry which says that all is well; that of the one which holds what it cannot do."""


@asynccontextmanager
async def planted(folder, store):
    """Each gateway has a registry of its own, and each registry a bug of its own."""
    async with meshed(folder, store) as mesh:
        for gateway, bug in ((REASSURED, "reassuring"), (HELD, "patient")):
            mesh.registries[gateway].program = ("-m", f"tests.faults.planted.{bug}")
            mesh.gateways[gateway].reconfigure("registry", address=mesh.registry_addresses[gateway])
        await mesh.start()
        await mesh.clients[HELD].models.register("mine", provider_model_id="echo-1")
        await until(mesh.in_step)
        yield mesh


async def check_bugs_are_found_out(mesh, begin):
    """Where there is one check fails; where there is none it passes."""
    held, reassured = mesh.clients[HELD].models, mesh.clients[REASSURED].models
    begin()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        await check_refused(held.register("late", provider_model_id="echo-1"))
    await check_refused(reassured.register("late", provider_model_id="echo-1"))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        await check_refused(held.get("mine"))
    with pytest.raises(TimeoutError):
        await check_noticed(mesh, began)
    assert [await told_silent(mesh.registry_addresses[gateway]) for gateway in (REASSURED, HELD)] == [False, True]
    assert await mesh.stale(HELD)
    assert not await mesh.stale(REASSURED)


@pytest.mark.timeout(90)
async def test_who_reassures_or_holds_on_behind_a_black_hole_is_found_out(tmp_path):
    """The control."""
    async with etcd(tmp_path) as member, TcpProxy(member.address) as proxy:
        async with planted(tmp_path, f"etcd://{proxy.address}/mesh") as mesh:
            await check_bugs_are_found_out(mesh, proxy.stall)


@pytest.mark.slow
@pytest.mark.timeout(90)
async def test_who_reassures_or_holds_on_over_a_frozen_etcd_is_found_out(tmp_path):
    """The control."""
    async with etcd(tmp_path) as member, planted(tmp_path, f"etcd://{member.address}/mesh") as mesh:
        await check_bugs_are_found_out(mesh, member.stop)


@pytest.mark.timeout(180)
async def test_two_of_three_members_killed(tmp_path):
    async with etcd_cluster(tmp_path, MAY_BE_KILLED) as members:
        store = f"etcd://{','.join(member.address for member in members)}/mesh"
        async with meshed(tmp_path, store, lease_ttl=LEASE_TTL) as mesh:
            await mesh.start()
            revision = (await mesh.clients[0].models.register("mine", provider_model_id="echo-1")).revision
            members[0].kill()
            assert await callable_(mesh.clients[0])
            await until(lambda: registered(mesh.clients[0], "with-two"), 10)
            members[1].kill()
            async with calling(mesh.clients[0]) as calls:
                await check_noticed(mesh, time.monotonic(), QUORUM_NOTICED_SECONDS)
                await check_reads(mesh)
                await check_writes_are_refused(mesh, revision)
                await check_restart_from_the_last_good_file(mesh)
                for member in members[:2]:
                    member.start()
                await check_everything_is_back(mesh)
            assert calls.failed == []


async def listening(address):
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


async def check_restart_from_the_last_good_file(mesh):
    """It serves, by a client that was not there before, long before it gives up waiting for the registry."""
    await mesh.gateways[1].kill()
    address = mesh.gateway_addresses[1]
    async with asyncio.TaskGroup() as group:
        group.create_task(mesh.gateways[1].start())
        async with asyncio.timeout(LAST_GOOD_SECONDS), Client(address, timeout=LAST_GOOD_SECONDS) as client:
            await until(lambda: listening(address))
            await until(lambda: callable_(client, "mine"))
            health = await client.inspect.health()
    assert health.snapshot_stale
    assert health.snapshot_from_file


@pytest.mark.timeout(60)
async def test_a_gateway_without_its_file_has_nothing_to_serve(tmp_path):
    """The control."""
    async with meshed(tmp_path, f"sqlite:///{tmp_path}/r.db", registries=1) as mesh:
        await mesh.start()
        await mesh.clients[0].models.register("mine", provider_model_id="echo-1")
        await mesh.registries[0].kill()
        mesh.gateways[1].reconfigure("gateway", snapshot_file=None)
        with pytest.raises(ExceptionGroup) as failed:
            await check_restart_from_the_last_good_file(mesh)
        assert failed.group_contains(TimeoutError)
