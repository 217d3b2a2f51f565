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
from tests.fakes.registry_api import FakeRegistry


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


def _said(word: str) -> pb.StreamChatCompletionResponse:
    kind = pb.ChatCompletionEventType.CHAT_COMPLETION_EVENT_TYPE_PROGRESS
    return pb.StreamChatCompletionResponse(event=pb.ChatCompletionEvent(event_type=kind, text=word))


@asynccontextmanager
async def serving(
    inference: ScriptedInference, registry: FakeRegistry, address: str = "127.0.0.1:0"
) -> AsyncGenerator[str]:
    """The address of a server with both."""
    server = grpc.aio.server(interceptors=[Errors()])
    add_InferenceServiceServicer_to_server(inference, server)
    registry.add_to(server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
