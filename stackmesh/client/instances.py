"""client.instances: the running processes that host providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc

from stackmesh.client.calls import pages, unary
from stackmesh.client.options import Options
from stackmesh.registry.v1 import instances_service_pb2 as pb
from stackmesh.registry.v1.instances_service_pb2_grpc import InstancesServiceStub
from stackmesh.registry.v1.resources_pb2 import Instance


class Instances:
    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        self._stub = InstancesServiceStub(channel)
        self._options = options

    async def get(self, instance_id: str) -> Instance:
        """One instance. Raises NotFound."""
        request = pb.GetInstanceRequest(instance_id=instance_id)
        return (await unary(self._stub.GetInstance, request, self._options)).instance

    async def list(self) -> AsyncGenerator[Instance]:
        """Every instance, by id; pages are fetched as they are needed."""
        async for page in pages(self._stub.ListInstances, pb.ListInstancesRequest(), self._options):
            for instance in page.instances:
                yield instance
