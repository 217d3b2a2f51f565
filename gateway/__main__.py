"""The gateway: one address for every model, whatever serves it."""

import asyncio
import sys
from contextlib import suppress
from typing import Final

from gateway import server
from gateway.server import Gateway
from stackmesh.config import Config
from stackmesh.process import Process, run
from stackmesh.tasks import background

FIRST_SNAPSHOT_SECONDS: Final = 3.0
"""How long to wait for the registry before saying that calls are answered, be it from a file or by UNAVAILABLE."""


async def serve(config: Config, process: Process) -> None:
    process.notify.status("reaching the registry")
    async with server.running(config) as gateway:
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SNAPSHOT_SECONDS):
                await gateway.told()
        process.notify.ready(f"gateway at {gateway.address}{_how(gateway)}")

        async def tell_when_it_is_there() -> None:
            await gateway.told()
            process.notify.status(f"gateway at {gateway.address}")

        async with background(tell_when_it_is_there(), "wait for the registry"):
            await process.stopping.wait()
        await gateway.listener.leave()


def _how(gateway: Gateway) -> str:
    if gateway.view.snapshot is None:
        return ", without a registry yet"
    return "" if gateway.view.snapshot.saved_at is None else ", by its last good snapshot, without a registry yet"


if __name__ == "__main__":
    sys.exit(run("gateway", __doc__, serve))
