"""Registry processes, and what they say."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from stackmesh.transport import internal_channel
from tests.integration.registry.client import Registry
from tests.ports import free_port

ROOT = Path(__file__).parents[3]


class Replica(Registry):
    """A registry process, and a client of it."""

    def __init__(self, address, channel, process):
        super().__init__(address, channel)
        self.process = process

    async def healthy(self):
        request = health_pb2.HealthCheckRequest(service="")
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(request, wait_for_ready=True, timeout=20)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    async def said(self, text):
        """Read its log until it says this."""
        async with asyncio.timeout(20):
            while text.encode() not in (line := await self.process.stderr.readline()):
                assert line, f"it ended without saying: {text}"
        return line.decode()


@asynccontextmanager
async def replica(folder, store, *program, ttl=15.0, text=""):
    """`program` replaces `-m registry_service`."""
    address = f"127.0.0.1:{free_port()}"
    config = folder / f"{address.partition(':')[2]}.yaml"
    config.write_text(f"version: 1\nregistry: {{address: '{address}', store: '{store}', lease_ttl: {ttl}}}\n{text}")
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *(program or ("-m", "registry_service")),
        "--config",
        str(config),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with internal_channel(address) as channel:
            yield Replica(address, channel, child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()
