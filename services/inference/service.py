"""InferenceService: checks the request, finds the provider the gateway chose, and streams what it says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

from services.inference import checks
from services.inference.provider import InferenceProvider
from stackmesh import calls
from stackmesh.hosting import HostedProviders
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceServicer

Request = pb.CompletionRequest | pb.ChatCompletionRequest | pb.EmbeddingsRequest


class InferenceService(InferenceServiceServicer):
    """The API over the providers of this process."""

    def __init__(self, hosted: HostedProviders) -> None:
        self._hosted = hosted

    async def Completion(self, request: pb.CompletionRequest, context: Any) -> pb.CompletionResponse:
        checks.check_completion(request)
        return await self._provider(request).completion(request)

    async def StreamCompletion(
        self, request: pb.CompletionRequest, context: Any
    ) -> AsyncGenerator[pb.StreamCompletionResponse]:
        checks.check_completion(request)
        async with aclosing(await self._provider(request).stream_completion(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def ChatCompletion(self, request: pb.ChatCompletionRequest, context: Any) -> pb.ChatCompletionResponse:
        checks.check_chat(request)
        return await self._provider(request).chat_completion(request)

    async def StreamChatCompletion(
        self, request: pb.ChatCompletionRequest, context: Any
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        checks.check_chat(request)
        async with aclosing(await self._provider(request).stream_chat_completion(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def Embeddings(self, request: pb.EmbeddingsRequest, context: Any) -> pb.EmbeddingsResponse:
        checks.check_embeddings(request)
        return await self._provider(request).embeddings(request)

    def _provider(self, request: Request) -> InferenceProvider:
        """The provider of this call; it reads its own name for the model in the request."""
        call = calls.current()
        request.model_id = call.provider_resource_id
        return cast("InferenceProvider", self._hosted.get(call.provider_id))
