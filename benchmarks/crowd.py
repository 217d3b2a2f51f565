"""A thousand instances in one process: it listens on every address of this machine, and 127.0.0.0/8 has many.

    python -m benchmarks.crowd

Whatever a registry asks whether it would host, it would, as the model `bench`. Each call is answered as
benchmarks.backend answers. It registers nobody: benchmarks.seed writes the instances into the store. It prints its port
and runs until its stdin is closed.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from benchmarks.backend import MODEL, CannedAnswers
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import (
    ProviderServiceServicer,
    add_ProviderServiceServicer_to_server,
)
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER


class Obliging(ProviderServiceServicer):
    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        return pb.ResolveResponse(provider_resource_id=MODEL)

    async def ListServed(self, request: pb.ListServedRequest, context: Any) -> pb.ListServedResponse:
        return pb.ListServedResponse(provider_resource_ids=[MODEL])


def address(number: int, port: int) -> str:
    """Where the instance with a number, up to 64,000, is reached."""
    return f"127.1.{number // 250}.{number % 250 + 1}:{port}"


async def main() -> None:
    def add_services(server: grpc.aio.Server) -> None:
        add_ProviderServiceServicer_to_server(Obliging(), server)
        server.add_generic_rpc_handlers((CannedAnswers(),))

    async with listening("0.0.0.0:0", options=INTERNAL_LISTENER, add_services=add_services) as listener:
        print(listener.address.rpartition(":")[2], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
