"""What an inference provider does. tests/contracts/inference_provider is this contract as a test suite."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Provider


class InferenceProvider(Provider, Protocol):
    """A provider of models.

    The service has checked the request, and `request.model_id` is the provider's own name for the model
    (its provider_resource_id), never the caller's.

    - A stream is obtained by awaiting: what is wrong before the first token is raised by the await. The caller closes
      the stream; closing or cancelling it stops the backend's work.
    - Text comes in whole Unicode characters; a stop sequence, and any beginning of one, is never part of it.
    - Usage and stop_reason are always reported, in a stream by its last message.
    - What this provider or model cannot do raises Unsupported with the reason; a prompt over the context raises
      ContextExceeded; a full queue raises QueueFull.
    """

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse: ...

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]: ...

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse: ...

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        """One START event, PROGRESS events, one COMPLETE event."""
        ...

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse: ...
