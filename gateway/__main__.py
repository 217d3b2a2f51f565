"""The gateway: one address for every model, whatever serves it."""

import asyncio
import sys
from contextlib import suppress
from typing import Final

from gateway import server
from stackmesh.config import Config
from stackmesh.process import Process, run

FIRST_SNAPSHOT_SECONDS: Final = 3.0
"""How long to wait for the registry before saying that calls are answered, if only by UNAVAILABLE."""


async def serve(config: Config, process: Process) -> None:
    process.notify.status("reaching the registry")
    async with server.running(config) as gateway:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SNAPSHOT_SECONDS):
                await gateway.view.changed(None)
        reached = "" if gateway.view.snapshot is not None else ", without a registry yet"
        process.notify.ready(f"gateway at {gateway.address}{reached}")
        await process.stopping.wait()
        await gateway.listener.leave()


if __name__ == "__main__":
    sys.exit(run("gateway", __doc__, serve))
