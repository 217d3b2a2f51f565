"""The registry: which models there are, which providers serve them, and which instances are alive."""

from __future__ import annotations

import sys

from registry_service import stores
from registry_service.declared.declarations import declarations
from registry_service.server import running
from stackmesh.config import Config
from stackmesh.process import Process, run


def check(config: Config) -> None:
    """Raises ConfigError or StartError for what cannot be used."""
    stores.check(config.registry.store)
    declarations(config)


async def main(config: Config, process: Process) -> None:
    """Answer until asked to stop."""
    process.notify.status("reaching the store")
    async with running(config) as registry:
        reached = "" if registry.mirror.known is not None else ", without its store yet"
        process.notify.ready(f"listening on {registry.address}{reached}")
        await process.stopping.wait()


if __name__ == "__main__":
    sys.exit(run("registry_service", __doc__, main, check))
