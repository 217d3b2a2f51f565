"""The services of names: ModelsService, ShieldsService, MemoryBanksService, AgentsService: one thing, four times.

They are made from the table of types and the protos' own descriptors, so a type that is added there is served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from registry_service import records
from registry_service.lists.pages import Listing, read_page
from registry_service.mirror.mirror import Mirror
from registry_service.registering import requests
from registry_service.registering.registrations import Registrations
from registry_service.registering.states import States
from registry_service.store import Store
from stackmesh.registry.v1 import (
    agents_service_pb2,
    memory_banks_service_pb2,
    models_service_pb2,
    shields_service_pb2,
)
from stackmesh.registry.v1.resources_pb2 import Instance
from stackmesh.resources import KINDS, Kind, Resource, earlier
from stackmesh.routes import ResourceType

DESCRIPTORS: Final[Mapping[ResourceType.ValueType, ServiceDescriptor]] = {
    ResourceType.RESOURCE_TYPE_MODEL: models_service_pb2.DESCRIPTOR.services_by_name["ModelsService"],
    ResourceType.RESOURCE_TYPE_SHIELD: shields_service_pb2.DESCRIPTOR.services_by_name["ShieldsService"],
    ResourceType.RESOURCE_TYPE_MEMORY_BANK: memory_banks_service_pb2.DESCRIPTOR.services_by_name["MemoryBanksService"],
    ResourceType.RESOURCE_TYPE_AGENT: agents_service_pb2.DESCRIPTOR.services_by_name["AgentsService"],
}
"""The service of each type. Its methods are a verb and what it is done to: GetModel, ListModels."""


class ResourceService:
    """Names for resources of one type."""

    def __init__(self, kind: Kind, store: Store, mirror: Mirror, registrations: Registrations) -> None:
        self._kind = kind
        self._store = store
        self._mirror = mirror
        self._registrations = registrations
        self._listing = Listing(kind.plural, records.prefix(kind))
        self._states = States()

    async def register(self, request: Any) -> Mapping[str, Any]:
        row = await self._registrations.register(requests.registration(self._kind, request))
        return await self._one(row)

    async def get(self, request: Any) -> Mapping[str, Any]:
        row = await self._registrations.get(self._kind, requests.name(self._kind, request))
        return await self._one(row)

    async def list(self, request: Any) -> Mapping[str, Any]:
        page = await read_page(self._store, self._listing, request.page_size, request.page_token)
        found = records.readable(page.rows, records.resource)
        await self._judge(found, page.revision)
        return {self._kind.plural: found, "next_page_token": page.next_token, "revision": page.revision}

    async def update(self, request: Any) -> Mapping[str, Any]:
        row = await self._registrations.update(*requests.change(self._kind, request))
        return await self._one(row)

    async def unregister(self, request: Any) -> Mapping[str, Any]:
        name, expected = requests.name(self._kind, request), requests.revision(request)
        return {"revision": await self._registrations.unregister(self._kind, name, expected)}

    async def _one(self, row: Resource) -> Mapping[str, Any]:
        """A row with its serving state, as it is now."""
        known, api = await self._mirror.current(), self._kind.api
        handover = known.handover(self._kind, row.identifier)
        self._states.tell(row, handover, lambda name: (known.provider(api, name), known.hosts(api, name)))
        return {self._kind.word: row}

    async def _judge(self, rows: Sequence[Resource], revision: int) -> None:
        """Fill in the serving states, as they were at one revision."""
        found, _ = await records.read(self._store, records.PROVIDERS, records.provider, revision)
        instances, _ = await records.read(self._store, records.INSTANCES, records.instance, revision)
        providers = {provider.provider_id: provider for provider in found if provider.api == self._kind.api}
        hosts: dict[str, dict[str, Instance]] = {provider_id: {} for provider_id in providers}
        for instance in instances:
            for entry in instance.providers:
                if entry.api == self._kind.api and entry.provider_id in hosts:
                    hosts[entry.provider_id][instance.instance_id] = instance
        under = f"{records.HANDOVERS}{records.prefix(self._kind)}"
        there, _ = await records.read(self._store, under, records.handover, revision)
        handovers = {earlier(handover).identifier: handover for handover in there}
        states = States()
        for row in rows:
            states.tell(row, handovers.get(row.identifier), lambda name: (providers.get(name), hosts.get(name, {})))


def handlers(service: ResourceService, descriptor: ServiceDescriptor) -> grpc.GenericRpcHandler:
    """The service as gRPC knows it."""
    verbs: Mapping[str, Callable[[Any], Awaitable[Mapping[str, Any]]]] = {
        "Register": service.register,
        "Get": service.get,
        "List": service.list,
        "Update": service.update,
        "Unregister": service.unregister,
    }
    return grpc.method_handlers_generic_handler(
        descriptor.full_name,
        {
            method.name: _handler(method, next(verbs[verb] for verb in verbs if method.name.startswith(verb)))
            for method in descriptor.methods
        },
    )


def _handler(method: MethodDescriptor, answer: Callable[[Any], Awaitable[Mapping[str, Any]]]) -> Any:
    request_type: Any = message_factory.GetMessageClass(method.input_type)
    response_type: Any = message_factory.GetMessageClass(method.output_type)

    async def call(request: Any, _context: object) -> Any:
        return response_type(**await answer(request))

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
    )


def all_handlers(store: Store, mirror: Mirror, registrations: Registrations) -> tuple[grpc.GenericRpcHandler, ...]:
    """The services of all types."""
    return tuple(
        handlers(ResourceService(KINDS[which], store, mirror, registrations), descriptor)
        for which, descriptor in DESCRIPTORS.items()
    )
