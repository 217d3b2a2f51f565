"""Registering models: the provider is asked, then the row is written by compare-and-swap."""

from __future__ import annotations

import logging
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from registry_service import records
from registry_service.resolve import Resolved, Resolver, Wanted
from registry_service.store import Delete, Put, Store
from stackmesh import names
from stackmesh.errors import Conflict, InvalidField, NotHosted, NotServing, ResourceExists, ResourceNotFound
from stackmesh.nearest import hint
from stackmesh.registry.v1 import models_service_pb2 as pb
from stackmesh.registry.v1.resources_pb2 import SOURCE_USER, Model
from stackmesh.routes import ResourceType

log = logging.getLogger(__name__)

METADATA_LIMIT: Final = 16 * 1024
"""Bytes of a resource's metadata."""
_ATTEMPTS: Final = 10
"""How often a row is read again because somebody else was faster."""


def check(request: pb.RegisterModelRequest) -> None:
    """Raises InvalidField."""
    names.check_resource_name("model_id", request.model_id)
    if request.provider_model_id:
        names.check_resource_name("provider_model_id", request.provider_model_id)
    if request.provider_id:
        names.check_id("provider_id", request.provider_id)
    if (size := request.metadata.ByteSize()) > METADATA_LIMIT:
        raise InvalidField("metadata", f"takes {size} bytes, at most {METADATA_LIMIT} are allowed")


def wanted(request: pb.RegisterModelRequest, provider_id: str) -> Wanted:
    """The question to the provider."""
    name = request.provider_model_id or request.model_id
    return Wanted(ResourceType.RESOURCE_TYPE_MODEL, name, request.metadata, provider_id)


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


class Registrations:
    """The models users register."""

    def __init__(self, store: Store, resolver: Resolver) -> None:
        self._store = store
        self._resolver = resolver

    async def get(self, model_id: str) -> Model:
        """Raises ResourceNotFound, naming the nearest ones."""
        row = await self._store.get(records.model_key(model_id))
        if row is not None:
            return records.model(row)
        rows, _ = await records.rows(self._store, records.MODELS)
        known = [row.key.removeprefix(records.MODELS) for row in rows]
        raise ResourceNotFound(
            f"no model is called {model_id}; {hint(model_id, known)}",
            metadata={"resource_type": "model"},
        )

    async def register(self, request: pb.RegisterModelRequest) -> Model:
        """The row, new or as it was. Raises ResourceExists, NotServing while the YAML's own is pending, and what
        Resolver.resolve raises.
        """
        check(request)
        key = records.model_key(request.model_id)
        for _ in range(_ATTEMPTS):
            row = await self._store.get(key)
            if row is not None:
                model = records.model(row)
                await self._same(model, request)
                return model
            resolved = await self._resolver.resolve(wanted(request, request.provider_id))
            try:
                return await self._create(request, resolved)
            except Conflict:
                log.info("%s was registered by somebody else meanwhile", request.model_id)
        raise Conflict(f"{request.model_id} keeps changing; try again")

    async def unregister(self, model_id: str) -> int:
        """The revision from which it is gone. Raises ResourceNotFound."""
        key = records.model_key(model_id)
        for _ in range(_ATTEMPTS):
            model = await self.get(model_id)
            try:
                return await self._store.commit([Delete(key)], expect={key: model.revision})
            except Conflict:
                log.info("%s was changed by somebody else meanwhile", model_id)
        raise Conflict(f"{model_id} keeps changing; try again")

    async def _create(self, request: pb.RegisterModelRequest, resolved: Resolved) -> Model:
        model = Model(
            identifier=request.model_id,
            provider_id=resolved.provider_id,
            provider_resource_id=resolved.provider_resource_id,
            metadata=request.metadata,
            source=SOURCE_USER,
            created_at=(at := now()),
            updated_at=at,
        )
        key = records.key_of(model)
        model.revision = await self._store.commit([Put(key, records.encode(model))], expect={key: 0})
        return model

    async def _same(self, model: Model, request: pb.RegisterModelRequest) -> None:
        if model.pending_reason:
            raise NotServing(f"{model.identifier} is declared in the YAML and pending: {model.pending_reason}")
        differs = (
            (request.provider_id and request.provider_id != model.provider_id)
            or (request.HasField("metadata") and request.metadata != model.metadata)
            or not await self._same_name(model, request)
        )
        if differs:
            raise ResourceExists(
                f"{model.identifier} is already registered, with the provider {model.provider_id} as "
                f"{model.provider_resource_id}, or with other metadata; unregister it first"
            )

    async def _same_name(self, model: Model, request: pb.RegisterModelRequest) -> bool:
        if request.provider_model_id in ("", model.provider_resource_id):
            return True
        try:
            resolved = await self._resolver.resolve(wanted(request, model.provider_id))
        except NotHosted:
            return False
        return resolved.provider_resource_id == model.provider_resource_id
