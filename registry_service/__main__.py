"""The registry: which models there are, which providers serve them, and which instances are alive."""

from __future__ import annotations

import sys

from registry_service import sqlite_file
from registry_service.declared import declarations
from registry_service.server import running
from stackmesh.config import Config
from stackmesh.process import Process, run


def check(config: Config) -> None:
    """Raises ConfigError or StartError for what cannot be used."""
    sqlite_file.path_of(config.registry.store)
    declarations(config)


async def main(config: Config, process: Process) -> None:
    """Answer until asked to stop."""
    async with running(config) as listener:
        process.notify.ready(f"listening on {listener.address}")
        await process.stopping.wait()


if __name__ == "__main__":
    sys.exit(run("registry_service", __doc__, main, check))
