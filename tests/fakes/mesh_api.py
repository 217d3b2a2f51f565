"""The public API of a mesh on a real gRPC server, answering by script: what a client sees of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from stackmesh.errors import InvalidField, QueueFull, ResourceNotFound
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from stackmesh.interceptors import Errors
from stackmesh.registry.v1 import models_service_pb2 as models_pb
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceServicer, add_ModelsServiceServicer_to_server
from stackmesh.registry.v1.resources_pb2 import Model


class ScriptedInference(InferenceServiceServicer):
    """`model_id` says what happens; `headers` and `ended` are what the server saw."""

    def __init__(self) -> None:
        self.headers: dict[str, Any] = {}
        self.remaining: float | None = None
        self.ended = asyncio.Event()

    async def ChatCompletion(self, request: pb.ChatCompletionRequest, context: Any) -> pb.ChatCompletionResponse:
        self._see(context)
        if request.model_id == "hang":
            try:
                await asyncio.sleep(60)
            finally:
                self.ended.set()
        if request.model_id == "cancelled":
            await context.abort(grpc.StatusCode.CANCELLED, "somebody hung up")
        self._refuse(request.model_id)
        return pb.ChatCompletionResponse(usage=pb.Usage(completion_tokens=len(request.messages)))

    async def StreamChatCompletion(
        self, request: pb.ChatCompletionRequest, context: Any
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        self._see(context)
        self._refuse(request.model_id)
        try:
            for word in ("one", "two", "three"):
                yield _said(word)
            if request.model_id == "breaks":
                raise QueueFull("no more", retry_after=1.5)
            if request.model_id == "cancelled":
                await context.abort(grpc.StatusCode.CANCELLED, "somebody hung up")
            if request.model_id == "hang":
                await asyncio.sleep(60)
        finally:
            self.ended.set()  # a client may leave while a word is on its way

    async def Completion(self, request: pb.CompletionRequest, context: Any) -> pb.CompletionResponse:
        return pb.CompletionResponse(content=request.content.items[0].text)

    async def StreamCompletion(
        self, request: pb.CompletionRequest, context: Any
    ) -> AsyncGenerator[pb.StreamCompletionResponse]:
        for word in request.content.items[0].text.split():
            yield pb.StreamCompletionResponse(delta=word)

    async def Embeddings(self, request: pb.EmbeddingsRequest, context: Any) -> pb.EmbeddingsResponse:
        return pb.EmbeddingsResponse(embeddings=[pb.Embedding(values=[1.0]) for _ in request.contents])

    def _see(self, context: Any) -> None:
        self.headers = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()

    def _refuse(self, model_id: str) -> None:
        if model_id == "unknown":
            raise ResourceNotFound("no model is called 'unknown'")
        if model_id == "wrong":
            raise InvalidField("messages", "is empty")


class PagedModels(ModelsServiceServicer):
    """Seven models, three a page. `asked` are the tokens that were sent."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.registered: models_pb.RegisterModelRequest | None = None

    async def ListModels(self, request: models_pb.ListModelsRequest, context: Any) -> models_pb.ListModelsResponse:
        self.asked.append(request.page_token)
        start = int(request.page_token or 0)
        models = [Model(identifier=f"m{i}") for i in range(start, min(start + 3, 7))]
        token = str(start + 3) if start + 3 < 7 else ""
        return models_pb.ListModelsResponse(models=models, next_page_token=token)

    async def RegisterModel(
        self, request: models_pb.RegisterModelRequest, context: Any
    ) -> models_pb.RegisterModelResponse:
        self.registered = request
        model = Model(identifier=request.model_id, provider_id="local", metadata=request.metadata)
        return models_pb.RegisterModelResponse(model=model)

    async def GetModel(self, request: models_pb.GetModelRequest, context: Any) -> models_pb.GetModelResponse:
        raise ResourceNotFound(f"no model is called {request.model_id!r}")

    async def UnregisterModel(
        self, request: models_pb.UnregisterModelRequest, context: Any
    ) -> models_pb.UnregisterModelResponse:
        return models_pb.UnregisterModelResponse(revision=1)


def _said(word: str) -> pb.StreamChatCompletionResponse:
    kind = pb.ChatCompletionEventType.CHAT_COMPLETION_EVENT_TYPE_PROGRESS
    return pb.StreamChatCompletionResponse(event=pb.ChatCompletionEvent(event_type=kind, text=word))


@asynccontextmanager
async def serving(inference: ScriptedInference, models: PagedModels) -> AsyncGenerator[str]:
    """The address of a server with both."""
    server = grpc.aio.server(interceptors=[Errors()])
    add_InferenceServiceServicer_to_server(inference, server)
    add_ModelsServiceServicer_to_server(models, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
