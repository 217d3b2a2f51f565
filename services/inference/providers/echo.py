"""inline::echo: says what was said to it, word by word. For tests, demos and measuring the mesh itself.

Its "tokens" are the words of the prompt. It serves the models it is told to, and each says its own name when asked
`who are you?`, so that a test can see which one was reached. Others it serves once they are registered, or never.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import ClassVar, Self

from pydantic import Field, NonNegativeFloat, PositiveInt

from services.inference import texts
from services.inference.lookup import Listed, ModelLookup
from stackmesh.common.v1 import content_pb2
from stackmesh.config import Frozen, ResourceName
from stackmesh.errors import NotServing
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

WHO = "who are you?"


class EchoConfig(Frozen):
    models: tuple[ResourceName, ...] = ("echo",)
    """What it serves."""
    loadable: tuple[ResourceName, ...] = ()
    """What it serves while it is registered."""
    load_seconds: NonNegativeFloat = 0.0
    """How long one of `loadable` takes until it is served."""
    unloadable: Mapping[ResourceName, str] = Field(default_factory=dict[ResourceName, str])
    """What it recognises and can never load, with the reason it gives."""
    delay: NonNegativeFloat = 0.0
    """Seconds before each word."""
    dimensions: PositiveInt = 8
    """Of its embeddings, which count letters."""


class Echo:
    Config: ClassVar[type[Frozen]] = EchoConfig

    def __init__(self, config: EchoConfig) -> None:
        self._config = config
        names = (*config.models, *config.loadable, *config.unloadable)
        self._lookup = ModelLookup(Listed(name) for name in names)
        self._loaded: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def resolve(self, wanted: Wanted) -> str:
        return self._lookup.resolve(wanted.provider_resource_id, None, "echo")

    async def load(self, wanted: Wanted) -> None:
        name = wanted.provider_resource_id
        if reason := self._config.unloadable.get(name):
            raise NotServing(reason)
        if name in self._config.loadable and name not in self._loaded:
            await asyncio.sleep(self._config.load_seconds)
            self._loaded.add(name)

    async def unload(self, provider_resource_id: str) -> None:
        self._loaded.discard(provider_resource_id)

    async def list_served(self) -> Sequence[str]:
        return (*self._config.models, *sorted(self._loaded))

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        words, end = self._answer(request.model_id, texts.plain(request.content), request.sampling_params)
        await asyncio.sleep(self._config.delay * len(words))
        return pb.CompletionResponse(content="".join(words), stop_reason=end.stop_reason, usage=end.usage)

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        words, end = self._answer(request.model_id, texts.plain(request.content), request.sampling_params)
        return self._stream_completion(words, end)

    async def _stream_completion(
        self, words: Sequence[str], end: pb.ChatCompletionEvent
    ) -> AsyncGenerator[pb.StreamCompletionResponse]:
        async for word in self._spoken(words):
            yield pb.StreamCompletionResponse(delta=word)
        yield pb.StreamCompletionResponse(stop_reason=end.stop_reason, usage=end.usage)

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        words, end = self._answer(request.model_id, texts.last_said(request.messages), request.sampling_params)
        await asyncio.sleep(self._config.delay * len(words))
        said = content_pb2.CompletionMessage(content=texts.content("".join(words)), stop_reason=end.stop_reason)
        return pb.ChatCompletionResponse(completion_message=said, usage=end.usage)

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        words, end = self._answer(request.model_id, texts.last_said(request.messages), request.sampling_params)
        return self._stream_chat(words, end)

    async def _stream_chat(
        self, words: Sequence[str], end: pb.ChatCompletionEvent
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        kinds = pb.ChatCompletionEventType
        start = pb.ChatCompletionEvent(event_type=kinds.CHAT_COMPLETION_EVENT_TYPE_START)
        yield pb.StreamChatCompletionResponse(event=start)
        async for word in self._spoken(words):
            event = pb.ChatCompletionEvent(event_type=kinds.CHAT_COMPLETION_EVENT_TYPE_PROGRESS, text=word)
            yield pb.StreamChatCompletionResponse(event=event)
        yield pb.StreamChatCompletionResponse(event=end)

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        said = [texts.plain(content) for content in request.contents]
        size = self._config.dimensions
        vectors = [[float(text.count(chr(ord("a") + i))) for i in range(size)] for text in said]
        return pb.EmbeddingsResponse(
            embeddings=[pb.Embedding(values=vector) for vector in vectors],
            usage=pb.Usage(prompt_tokens=sum(len(text.split()) for text in said)),
        )

    def _answer(self, model: str, said: str, params: pb.SamplingParams) -> tuple[list[str], pb.ChatCompletionEvent]:
        """The words to be said, and the event that ends them."""
        said = model if said == WHO else said
        words = [word + " " for word in said.split(" ")]
        words[-1] = words[-1][:-1]
        most = params.max_tokens or len(words)
        cut = most < len(words)
        reasons = content_pb2.StopReason
        end = pb.ChatCompletionEvent(
            event_type=pb.ChatCompletionEventType.CHAT_COMPLETION_EVENT_TYPE_COMPLETE,
            stop_reason=reasons.STOP_REASON_OUT_OF_TOKENS if cut else reasons.STOP_REASON_END_OF_TURN,
            usage=pb.Usage(prompt_tokens=len(words), completion_tokens=min(most, len(words))),
        )
        return words[:most], end

    async def _spoken(self, words: Sequence[str]) -> AsyncGenerator[str]:
        for word in words:
            await asyncio.sleep(self._config.delay)
            yield word
