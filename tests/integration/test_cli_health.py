"""What the commands say when the gateway knows of nothing, or of old things: a real gateway without a registry."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway import server
from stackmesh.config import Config, parse
from tests.fakes.up import stackmesh
from tests.fakes.watch_server import WatchServer
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    tree = {
        "version": 1,
        "registry": {"address": f"127.0.0.1:{free_port()}"},
        "gateway": {"address": f"127.0.0.1:{free_port()}", "snapshot_file": str(tmp_path / "gateway.snapshot")},
    }
    return parse(yaml.safe_dump(tree), {}, "the test's mesh")


async def run(config: Config, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(stackmesh, *arguments, STACKMESH_ADDRESS=config.gateway.address)


async def test_a_gateway_that_never_heard_the_registry_is_no_empty_mesh(config):
    async with server.running(config):
        for kind in ("routes", "providers"):
            done = await run(config, "get", kind)
            assert (done.returncode, done.stdout) == (1, "")
            assert "has not reached the registry" in done.stderr
            assert "hint: see what the gateway goes on with: stackmesh get health" in done.stderr
        done = await run(config, "get", "health")
        assert done.returncode == 1
        assert done.stdout.splitlines()[1].split() == ["unavailable", "none"]
        assert "- the registry has not been reached yet\n" in done.stdout
        done = await run(config, "get", "health", "-o", "json")
        assert (done.returncode, json.loads(done.stdout)["status"]) == (1, "HEALTH_STATUS_UNAVAILABLE")


async def test_old_routes_are_shown_and_said_to_be_old(config):
    registry = WatchServer()
    registry.put("mine")
    async with registry.serving(config.registry.address), server.running(config) as gateway:
        await gateway.told()
        done = await run(config, "get", "routes")
        assert (done.returncode, done.stderr) == (0, "")
    async with server.running(config):
        for kind in ("routes", "providers"):
            done = await run(config, "get", kind)
            assert done.returncode == 0
            assert done.stderr.startswith("note: this is what the gateway knew ")
            assert done.stderr.endswith(" s ago; it does not hear the registry\n")
        done = await run(config, "get", "health", "-o", "yaml")
        assert done.returncode == 0
        health = yaml.safe_load(done.stdout)
        assert (health["status"], health["snapshot_stale"]) == ("HEALTH_STATUS_DEGRADED", True)


async def test_health_has_no_names(config):
    done = await run(config, "get", "health", "mine")
    assert done.returncode == 2
    assert "leave it away" in done.stderr
