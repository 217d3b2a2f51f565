"""A process of the mesh whose background work ends, by a bug, does not run on without it."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from tests.ports import free_port
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PLANTED = """
import runpy, sys
from stackmesh.reflector import Reflector

async def run(self):
    raise RuntimeError("planted")

Reflector.run = run
"""
DEAF = """
import stackmesh.process
from contextlib import nullcontext

stackmesh.process.failing = nullcontext
"""
RUN = """
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
SECONDS = 20.0
"""The start-up waits some seconds for what never comes."""

WORK = {
    "registry_service": "mirror the store",
    "services.inference": "reflector",
    "gateway": "reflect the registry",
}


@asynccontextmanager
async def running(folder, module, program):
    """A process of that program, and its log."""
    echo = {"provider_id": "echo", "provider_type": "inline::echo"}
    tree = {
        "version": 1,
        "registry": {"store": f"sqlite:///{folder}/r.db", "address": f"127.0.0.1:{free_port()}"},
        "gateway": {"address": f"127.0.0.1:{free_port()}", "snapshot_file": None},
        "providers": {"inference": [echo]},
    }
    config, log = folder / f"{module}.yaml", folder / f"{module}.log"
    config.write_text(yaml.safe_dump(tree))
    with log.open("wb") as file:
        command = (sys.executable, "-c", program, module, "--config", str(config))
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=file)
    try:
        yield process, log
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("module", WORK)
async def test_a_process_whose_reflector_ends_stops_and_says_so(tmp_path, module):
    async with running(tmp_path, module, PLANTED + RUN) as (process, log):
        async with asyncio.timeout(SECONDS):
            assert await process.wait() == 1
        said = log.read_text()
    assert "RuntimeError: planted" in said
    assert said.splitlines()[-1] == f"{module}: {WORK[module]}: failed, the log says why"


async def test_a_process_that_does_not_hear_of_it_runs_on_without(tmp_path):
    """The control."""
    async with running(tmp_path, "gateway", PLANTED + DEAF + RUN) as (process, log):
        await until(lambda: "RuntimeError: planted" in log.read_text(), SECONDS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):  # longer than it would take to start
                await process.wait()
