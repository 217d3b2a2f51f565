"""A registry that is frozen for longer than its leases live, and goes on."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from stackmesh.announcer import Announcer
from stackmesh.registry.v1 import announce_service_pb2, watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.routes import Api
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[3]
TTL = 2.0
INSTANCES = 20
REGISTRY = ["-m", "registry_service"]
FORGETFUL = [
    "-c",
    """
import math, sys
from registry_service.sqlite import log as sqlite_log
from registry_service import __main__ as registry
from stackmesh.process import run

sqlite_log._GAP_SECONDS = math.inf
sys.exit(run("registry_service", "", registry.main, registry.check))
""",
]
"""The same without what is tested here."""


@asynccontextmanager
async def registry(folder, program):
    address = f"127.0.0.1:{free_port()}"
    config = folder / "mesh.yaml"
    config.write_text(
        f"version: 1\nregistry: {{address: '{address}', store: 'sqlite:///{folder}/r.db', lease_ttl: {TTL}}}\n"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, *program, "--config", str(config), cwd=ROOT)
    try:
        async with internal_channel(address) as channel:
            yield child, channel
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


def reports():
    return [announce_service_pb2.ServedReport(api=Api.API_INFERENCE, provider_id="p", provider_type="inline::x")]


async def entries(channel):
    listed = await WatchServiceStub(channel).ListEntries(pb.ListEntriesRequest(), wait_for_ready=True, timeout=20)
    return {e.key: e.instance.lease_id for e in listed.entries if e.HasField("instance")}


async def nobody_is_dropped(folder, program):
    """Frozen for twice as long as a lease lives: every instance keeps its lease, and is never gone."""
    async with registry(folder, program) as (child, channel):
        announcers = [Announcer(channel, f"i{n}", f"127.0.0.1:{n + 1}", reports) for n in range(INSTANCES)]
        async with AsyncExitStack() as stack:
            for announcer in announcers:
                await stack.enter_async_context(background(announcer.run(), "announcer"))
            await until(lambda: all(announcer.registered for announcer in announcers), 30)
            before = await entries(channel)
            assert len(before) == INSTANCES
            child.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * TTL)  # what is tested takes time
            child.send_signal(signal.SIGCONT)
            ended = asyncio.get_running_loop().time() + 2 * TTL
            while asyncio.get_running_loop().time() < ended:
                assert await entries(channel) == before
            await until(lambda: all(announcer.registered for announcer in announcers), 30)


async def test_a_frozen_registry_drops_nobody_when_it_goes_on(tmp_path):
    await nobody_is_dropped(tmp_path, REGISTRY)


async def test_the_check_finds_a_registry_that_does_not_notice(tmp_path):
    with pytest.raises(AssertionError):
        await nobody_is_dropped(tmp_path, FORGETFUL)
