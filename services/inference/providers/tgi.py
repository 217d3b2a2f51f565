"""remote::tgi: the one model of a Hugging Face text-generation-inference server.

Chats go to its messages API, completions to /generate_stream. Whole answers are gathered from streams. A `grammar` is a
regular expression. Tools are as they should be from TGI 3.2 on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Annotated, Any, ClassVar, Final, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel

from services.inference import tables, texts
from services.inference.openai.stream import ChatFold, CompletionFold
from services.inference.remote.config import ServerConfig
from services.inference.remote.http import Http
from services.inference.remote.keys import Key, OwnKey, secret
from services.inference.remote.listing import Listing
from services.inference.remote.streams import Fold, Json, Reading, stream
from services.inference.remote.urls import Url
from services.inference.tgi import failures, requests, whole
from services.inference.tgi.events import Chat, Events, Generate
from services.inference.tgi.served import Served, served
from stackmesh import calls
from stackmesh.config import Frozen, ResourceName
from stackmesh.errors import BackendUnauthenticated, MeshError, NotServing, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

_COUNT_LIMIT: Final = 2.0
"""Seconds to ask how many tokens a prompt has."""

Chunk = TypeVar("Chunk", pb.StreamCompletionResponse, pb.StreamChatCompletionResponse)


def _root(url: str) -> str:
    if url.endswith("/v1"):
        raise ValueError("must be the root of the server: leave out the /v1")
    return url


class TGIConfig(ServerConfig):
    url: Annotated[Url, AfterValidator(_root)]
    """The root of the server, for example http://localhost:8080."""
    model: ResourceName | None = None
    """The name of its model where the server knows it as a local path (/data/model), which cannot be registered. A
    server that knows a name serves nothing under another.
    """
    api_token: OwnKey = None
    """What `text-generation-launcher --api-key` was given, or the token of the endpoint it runs at. One of a caller, in
    the provider data, comes before it.
    """


class TGIProviderData(BaseModel):
    """What a caller may send with a call."""

    tgi_api_token: Key | None = None


class TGI:
    Config: ClassVar[type[Frozen]] = TGIConfig

    def __init__(self, config: TGIConfig) -> None:
        self._config = config
        self._transport = Http(config.endpoint, failures.refusal)
        self._where = self._transport.where
        self._listing = Listing(self._ask_for_model, tables.llama_by_name(), self._where)
        self._served: Served | None = None
        """As it was last told."""

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)

    # Models

    async def list_served(self) -> Sequence[str]:
        """The model of GET /info."""
        return await self._listing.names(self._key())

    async def resolve(self, wanted: Wanted) -> str:
        return await self._listing.resolve(wanted.provider_resource_id, self._key())

    async def load(self, wanted: Wanted) -> None:
        """The server has its model, or is of no use."""

    async def unload(self, provider_resource_id: str) -> None:
        """As for `load`."""

    # Text

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        return await whole.completion(await self.stream_completion(request))

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        body = requests.completion(request, self._config.max_tokens)
        await self._expect(request.model_id)
        tongue = Generate(request.sampling_params.stop, logprobs=request.HasField("logprobs"))
        return await self._stream("/generate_stream", body, tongue, CompletionFold(self._where))

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        return await whole.chat(await self.stream_chat_completion(request))

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        body = requests.chat(request, self._config.max_tokens)
        model = await self._expect(request.model_id)
        if model.blind and any(texts.has_image(texts.spoken(message)) for message in request.messages):
            raise Unsupported(f"{model.name} sees no image: on the Hub it is a model of text")
        tongue = Chat(request.sampling_params.stop)
        return await self._stream("/v1/chat/completions", body, tongue, ChatFold(self._where))

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        raise Unsupported("text-generation-inference makes no embeddings: text-embeddings-inference does")

    def _key(self) -> str | None:
        """The credential of the current call: the caller's, else the server's own. None: the server wants none."""
        sent = calls.provider_data(TGIProviderData)
        return secret(sent.tgi_api_token if sent is not None else None, self._config.api_token)

    async def _ask_for_model(self, key: str | None) -> Sequence[str]:
        try:
            self._served = served(await self._transport.get("/info", key), self._config.model, self._where)
        except BackendUnauthenticated:
            if self._config.model is None or key is not None:
                raise
            self._served = Served(self._config.model, blind=False)  # callers have tokens of their own
        return [self._served.name]

    async def _expect(self, name: str) -> Served:
        """The server's model, which has to be the one of this name: TGI itself would answer as any."""
        if self._served is None or self._served.name != name:
            await self._listing.names(self._key())
        if self._served is None or self._served.name != name:
            other = f", but {self._served.name}" if self._served is not None else ""
            raise NotServing(f"{self._where} does not serve the model {name!r}{other}")
        return self._served

    async def _stream(
        self, path: str, body: Mapping[str, Any], tongue: Generate | Chat, fold: Fold[Chunk]
    ) -> AsyncGenerator[Chunk]:
        """As `streams.stream`, and with the prompt's tokens, which not every stream tells."""
        key = self._key()
        events = Events(self._where, tongue, silence=self._config.read_timeout)
        chunks = await stream(self._transport, path, body, key, Reading(events, fold, self._failure))
        counted = self._counted(chunks, body, key)
        await anext(counted)
        return cast("AsyncGenerator[Chunk]", counted)

    async def _counted(
        self, chunks: AsyncGenerator[Chunk], body: Mapping[str, Any], key: str | None
    ) -> AsyncGenerator[Chunk | None]:
        """None, so that it has begun and closing it closes `chunks`; then those."""
        last: Chunk | None = None
        async with aclosing(chunks):
            yield None
            async for chunk in chunks:
                usage = _usage(chunk)
                if usage is not None and not usage.prompt_tokens:
                    last = chunk
                    break  # the server may be at work yet
                yield chunk
        if last is not None and (usage := _usage(last)) is not None:
            usage.prompt_tokens = await self._count(body, key)
            yield last

    async def _count(self, body: Mapping[str, Any], key: str | None) -> int:
        """How many tokens the prompt has; 0 if the server does not say."""
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(_COUNT_LIMIT):
                return requests.counted(await self._transport.post(*requests.for_counting(body), key))
        return 0

    def _failure(self, event: Json, key: str | None) -> MeshError:
        return failures.failure(self._where, event, key)


def _usage(chunk: pb.StreamCompletionResponse | pb.StreamChatCompletionResponse) -> pb.Usage | None:
    """That of the last chunk."""
    said = chunk if isinstance(chunk, pb.StreamCompletionResponse) else chunk.event
    return said.usage if said.HasField("usage") else None
