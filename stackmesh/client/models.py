"""client.models: names for models."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
from google.protobuf.struct_pb2 import Struct

from stackmesh.client.calls import pages, unary
from stackmesh.client.options import Options
from stackmesh.registry.v1 import models_service_pb2 as pb
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from stackmesh.registry.v1.resources_pb2 import Model


class Models:
    """Registers, looks up and removes models.

    model = await client.models.register("my-llama", provider_model_id="llama3.1:8b", metadata={"team": "search"})
    """

    def __init__(self, channel: grpc.aio.Channel, options: Options) -> None:
        self._stub = ModelsServiceStub(channel)
        self._options = options

    async def register(
        self,
        model_id: str,
        *,
        provider_id: str | None = None,
        provider_model_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Model:
        """Register a model; its name is enough where only one provider recognises it. It can be called at once.

        Raises NotHosted, AmbiguousProvider, ProviderNotFound; ResourceExists if the name has other fields already.
        """
        request = pb.RegisterModelRequest(
            model_id=model_id, provider_id=provider_id or "", provider_model_id=provider_model_id or ""
        )
        if metadata is not None:
            request.metadata.CopyFrom(Struct())
            request.metadata.update(metadata)
        return (await unary(self._stub.RegisterModel, request, self._options)).model

    async def get(self, model_id: str) -> Model:
        """The model, with its serving state. Raises ResourceNotFound, naming the nearest."""
        return (await unary(self._stub.GetModel, pb.GetModelRequest(model_id=model_id), self._options)).model

    async def list(self) -> AsyncGenerator[Model]:
        """Every model, in the order of their names; pages are fetched as they are needed."""
        async for page in pages(self._stub.ListModels, pb.ListModelsRequest(), self._options):
            for model in page.models:
                yield model

    async def unregister(self, model_id: str) -> None:
        """Remove the registration. Raises ResourceNotFound."""
        await unary(self._stub.UnregisterModel, pb.UnregisterModelRequest(model_id=model_id), self._options)
