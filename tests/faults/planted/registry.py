"""A registry process over an etcd store that has a bug. All the rest of it is what users run."""

from __future__ import annotations

from collections.abc import Callable

from registry_service.etcd import url
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import Location
from registry_service.server import running
from stackmesh.config import Config
from stackmesh.process import Process, run


def run_over(store_type: Callable[[Location], EtcdStore]) -> int:
    """As `python -m registry_service`, over a store of this type."""

    async def main(config: Config, process: Process) -> None:
        async with running(config, store_type(url.parse(config.registry.store))) as registry:
            process.notify.ready(f"listening on {registry.address}")
            await process.stopping.wait()

    return run("planted", store_type.__doc__, main)
