"""Gauges for Prometheus, over HTTP at an address of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, start_http_server

from stackmesh.process import StartError

log = logging.getLogger(__name__)


@asynccontextmanager
async def exposing(address: str, registry: CollectorRegistry) -> AsyncGenerator[str]:
    """Answers `GET /metrics` at `address` from a thread of its own while the body runs. Gives the real address.

    Raises StartError if the port is taken.
    """
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        raise StartError(f"gateway.metrics_address: cannot listen on {address}: {error.strerror}") from None
    real = f"{host}:{server.server_port}"
    log.info("metrics at http://%s/metrics", real)
    try:
        yield real
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
