"""Hosts the configured inference providers and keeps them registered."""

import sys

from services.inference import server
from stackmesh.config import Config
from stackmesh.process import Process, run


async def serve(config: Config, process: Process) -> None:
    process.notify.status("opening providers")
    async with server.running(config) as listener:
        process.notify.ready(f"inference at {listener.address}")
        await process.stopping.wait()


if __name__ == "__main__":
    sys.exit(run("services.inference", __doc__, serve, server.check))
