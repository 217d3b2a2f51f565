"""InstancesService: the running processes that host providers."""

from __future__ import annotations

from typing import Any, Final

from registry_service import records
from registry_service.lists.pages import Listing, read_page
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh import names
from stackmesh.errors import NotFound
from stackmesh.nearest import hint
from stackmesh.registry.v1 import instances_service_pb2 as pb
from stackmesh.registry.v1.instances_service_pb2_grpc import InstancesServiceServicer

_LISTING: Final = Listing("instances", records.INSTANCES)


class Instances(InstancesServiceServicer):
    def __init__(self, store: Store, mirror: Mirror) -> None:
        self._store = store
        self._mirror = mirror

    async def GetInstance(self, request: pb.GetInstanceRequest, context: Any) -> pb.GetInstanceResponse:
        wanted = names.check_id("instance_id", request.instance_id)
        known = await self._mirror.current()
        if (found := known.instance(wanted)) is None:
            raise NotFound(f"no running instance is called {wanted}; {hint(wanted, known.instances())}")
        return pb.GetInstanceResponse(instance=found)

    async def ListInstances(self, request: pb.ListInstancesRequest, context: Any) -> pb.ListInstancesResponse:
        page = await read_page(self._store, _LISTING, request.page_size, request.page_token)
        instances = records.readable(page.rows, records.instance)
        return pb.ListInstancesResponse(instances=instances, next_page_token=page.next_token, revision=page.revision)
