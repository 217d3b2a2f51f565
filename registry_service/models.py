"""ModelsService: names for models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from registry_service import records
from registry_service.pages import Listing, read_page
from registry_service.registrations import Registrations
from registry_service.store import Store
from stackmesh import names
from stackmesh.registry.v1 import models_service_pb2 as pb
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceServicer
from stackmesh.registry.v1.resources_pb2 import Model
from stackmesh.routes import Api
from stackmesh.serving import judge

_LISTING: Final = Listing("models", records.MODELS)


class Models(ModelsServiceServicer):
    def __init__(self, store: Store, registrations: Registrations) -> None:
        self._store = store
        self._registrations = registrations

    async def RegisterModel(self, request: pb.RegisterModelRequest, context: Any) -> pb.RegisterModelResponse:
        model = await self._registrations.register(request)
        await self._judge([model])
        return pb.RegisterModelResponse(model=model)

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        names.check_resource_name("model_id", request.model_id)
        model = await self._registrations.get(request.model_id)
        await self._judge([model])
        return pb.GetModelResponse(model=model)

    async def ListModels(self, request: pb.ListModelsRequest, context: Any) -> pb.ListModelsResponse:
        page = await read_page(self._store, _LISTING, request.page_size, request.page_token)
        models = [records.model(row) for row in page.rows]
        await self._judge(models, page.revision)
        return pb.ListModelsResponse(models=models, next_page_token=page.next_token, revision=page.revision)

    async def UnregisterModel(self, request: pb.UnregisterModelRequest, context: Any) -> pb.UnregisterModelResponse:
        names.check_resource_name("model_id", request.model_id)
        return pb.UnregisterModelResponse(revision=await self._registrations.unregister(request.model_id))

    async def _judge(self, models: Sequence[Model], revision: int | None = None) -> None:
        """Fill in the serving states, as they were at one revision."""
        rows, at = await records.read(self._store, records.PROVIDERS, records.provider, revision)
        providers = {row.provider_id: row for row in rows if row.api == Api.API_INFERENCE}
        instances, _ = await records.read(self._store, records.INSTANCES, records.instance, at)
        for model in models:
            model.serving_state, model.serving_reason = judge(model, providers.get(model.provider_id), instances)
