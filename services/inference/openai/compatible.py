"""A provider on any server that speaks the OpenAI dialect. Adapters add where the server is, its key and its ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Self

from services.inference.lookup import ModelLookup
from services.inference.openai import answer, request as body
from services.inference.openai.request import Body, Dialect
from services.inference.openai.sse import EventDecoder
from services.inference.openai.stream import ChatFold, CompletionFold
from services.inference.remote.errors import meaning, sensible
from services.inference.remote.listing import Listing
from services.inference.remote.streams import Chunk, Fold, Reading, stream
from services.inference.remote.transport import Transport
from stackmesh.errors import MeshError
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted


class OpenAICompatible:
    """The methods of an InferenceProvider over one backend.

    An adapter is a subclass: it says how the backend is reached and in which dialect, what its models are called
    besides their ids, and overrides `key`.
    """

    def __init__(self, transport: Transport, dialect: Dialect, lookup: ModelLookup) -> None:
        self._transport = transport
        self._dialect = dialect
        self._where = transport.where
        self._listing = Listing(self._ask_for_models, lookup, self._where)

    def key(self) -> str | None:
        """The credential of the current call: the caller's, else the server's own. None: the server wants none."""
        return None

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

    async def list_served(self) -> Sequence[str]:
        """The ids of GET /models that can be registered."""
        return await self._listing.names(self.key())

    async def _ask_for_models(self, key: str | None) -> Sequence[str]:
        found = await self._transport.get("/models", key)
        with sensible(self._where):
            return [str(model["id"]) for model in found["data"]]

    async def resolve(self, wanted: Wanted) -> str:
        return await self._listing.resolve(wanted.provider_resource_id, self.key())

    async def load(self, wanted: Wanted) -> None:
        """What the backend serves is the backend's business."""

    async def unload(self, provider_resource_id: str) -> None:
        """As for `load`."""

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        asked = body.completion(request, self._dialect)
        return answer.completion(await self._transport.post("/completions", asked, self.key()), self._where)

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        asked = body.completion(request, self._dialect)
        return await self._stream("/completions", asked, CompletionFold(self._where))

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        asked = body.chat(request, self._dialect)
        return answer.chat(await self._transport.post("/chat/completions", asked, self.key()), self._where)

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        asked = body.chat(request, self._dialect)
        return await self._stream("/chat/completions", asked, ChatFold(self._where))

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        asked = body.embeddings(request)
        found = await self._transport.post("/embeddings", asked, self.key())
        return answer.embeddings(found, len(request.contents), self._where)

    async def _stream(self, path: str, asked: Body, fold: Fold[Chunk]) -> AsyncGenerator[Chunk]:
        reading = Reading(EventDecoder(), fold, self._failure)
        return await stream(self._transport, path, body.streamed(asked, self._dialect), self.key(), reading)

    def _failure(self, event: Body, key: str | None) -> MeshError:
        """The meaning of an error event. Its `code` is the status the server would have answered with."""
        error: Any = event.get("error", event)
        code: Any = error.get("code") if isinstance(error, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- JSON
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return meaning(self._where, status, event, key=key)
