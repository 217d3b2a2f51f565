"""The registry: which models there are, which providers serve them, and which instances are alive."""

from __future__ import annotations

import sys

from registry_service import stores
from registry_service.declared.declarations import declarations
from registry_service.mirror.mirror import Mirror
from registry_service.server import running
from stackmesh.config import Config
from stackmesh.errors import MeshError
from stackmesh.process import Process, run
from stackmesh.tasks import background


def check(config: Config) -> None:
    """Raises ConfigError or StartError for what cannot be used."""
    stores.check(config.registry.store)
    declarations(config)


async def main(config: Config, process: Process) -> None:
    """Answer until asked to stop."""
    process.notify.status("reaching the store")
    async with running(config) as registry:
        here = f"listening on {registry.address}"
        process.notify.ready(f"{here}{await _without_store(registry.mirror)}")

        async def tell_when_it_is_there() -> None:
            await registry.mirror.changed(None)
            process.notify.status(here)

        async with background(tell_when_it_is_there(), "wait for the store"):
            await process.stopping.wait()


async def _without_store(mirror: Mirror) -> str:
    """What is wrong with the store, if it has not been read yet."""
    if mirror.known is not None:
        return ""
    try:
        await mirror.current()
    except MeshError as error:
        return f", without its store yet: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(run("registry_service", __doc__, main, check))
