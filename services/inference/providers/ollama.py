"""remote::ollama: models served by Ollama, by its own API.

What is served is what *runs*: it is in the server's memory, and a call is answered at once. Ollama would load anything
that it has pulled when it is first called for, but a caller would wait minutes for that, drive other models out of
memory, or find out that there is no room; and what was idle for `keep_alive` is not there any more. So a model that
does not run is not served, whatever the configuration. With `load` it is this provider that makes a registered model
run before anybody calls it, and again when it is gone: it is not served meanwhile, and the reason says why. Models that
Ollama's cloud runs for the server always run.

Stop sequences are held back by the server itself. An answer without a limit (`max_tokens`) does not end at the context:
Ollama goes on, and forgets the beginning.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, PositiveFloat, PositiveInt

from services.inference import tables
from services.inference.ollama import answer, request as body, stream as streamed
from services.inference.ollama.errors import failure, refusal
from services.inference.ollama.keep_alive import KeepAlive
from services.inference.ollama.loading import Loader
from services.inference.ollama.models import Models
from services.inference.ollama.names import Names
from services.inference.ollama.request import Body, Defaults
from services.inference.remote.config import ServerConfig
from services.inference.remote.errors import Refusal
from services.inference.remote.http import Endpoint, Http
from services.inference.remote.keys import Key, OwnKey, secret
from services.inference.remote.streams import Chunk, Fold, Json, Reading, stream
from services.inference.remote.transport import Transport
from services.inference.remote.urls import Url
from stackmesh import calls
from stackmesh.config import Frozen
from stackmesh.errors import MeshError, NotServing
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted


def _check_root(url: str) -> str:
    if urlsplit(url).path.endswith(("/api", "/v1")):
        raise ValueError("must be the server's root, without /api or /v1, for example http://localhost:11434")
    return url


class OllamaConfig(ServerConfig):
    url: Annotated[Url, AfterValidator(_check_root)] = "http://localhost:11434"
    """The root of the server."""
    api_key: OwnKey = None
    """For https://ollama.com, or a proxy that wants one. A caller's own, in the provider data, comes before it."""
    load: bool = False
    """Whether a registered model that does not run is loaded, and again when it is gone."""
    pull: bool = False
    """Whether one that is not there is pulled, and then loaded. It is never deleted."""
    keep_alive: KeepAlive | None = None
    """How long an idle model stays in memory, sent with each request: "5m", seconds, or -1 for ever. Absent: as the
    server has it; but what is loaded by `load` stays until it is unregistered.
    """
    num_ctx: PositiveInt | None = None
    """Tokens of context. Absent: as the server or the model has it."""
    load_timeout: PositiveFloat = 600.0
    """Seconds in which loading a model has to end, or pulling it to get on."""


class OllamaProviderData(BaseModel):
    """What a caller may send with a call."""

    ollama_api_key: Key | None = None


class Ollama:
    Config: ClassVar[type[Frozen]] = OllamaConfig

    def __init__(self, config: OllamaConfig, http: Callable[[Endpoint, Refusal], Transport] = Http) -> None:
        self._transport = http(config.endpoint, refusal)
        self._patient = http(replace(config.endpoint, read_timeout=config.load_timeout), refusal)
        self._where = self._transport.where
        self._defaults = Defaults(config.max_tokens, config.num_ctx, config.keep_alive)
        self._loads = config.load or config.pull
        names = Names(tables.provider("ollama"), tables.llama().names.keys(), self._loads, config.pull)
        self._models = Models(self._transport, names)
        self._loader = Loader(self._patient, self._models, self._defaults, config.load_timeout, pulls=config.pull)
        self._api_key = config.api_key

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        await self._patient.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._patient.__aexit__(*exc_info)
        await self._transport.__aexit__(*exc_info)

    def key(self) -> str | None:
        """The credential of the current call: the caller's, else the server's own. None: the server wants none."""
        sent = calls.provider_data(OllamaProviderData)
        return secret(sent.ollama_api_key if sent is not None else None, self._api_key)

    # Names

    async def list_served(self) -> Sequence[str]:
        """What runs, and can be registered."""
        return await self._models.running(self.key())

    async def resolve(self, wanted: Wanted) -> str:
        return await self._models.resolve(wanted.provider_resource_id, self.key())

    async def load(self, wanted: Wanted) -> None:
        name = wanted.provider_resource_id
        if self._loads:
            await self._loader.load(name, self.key())
        elif name not in await self._models.running(self.key()):
            remedy = f"run it there (ollama run {name}), or set load: true"
            raise NotServing(f"{self._where} does not run {name}: {remedy}")

    async def unload(self, provider_resource_id: str) -> None:
        await self._loader.unload(provider_resource_id, self.key())

    # Calls

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        asked = body.completion(request, self._defaults)
        return answer.completion(await self._whole("/api/generate", asked), self._where)

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        asked = body.completion(request, self._defaults)
        return await self._stream("/api/generate", asked, streamed.CompletionFold(self._where))

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        asked = body.chat(request, self._defaults)
        return answer.chat(await self._whole("/api/chat", asked), self._where)

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        asked = body.chat(request, self._defaults)
        return await self._stream("/api/chat", asked, streamed.ChatFold(self._where))

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        asked = body.embeddings(request, self._defaults)
        found = await self._transport.post("/api/embed", asked, self.key())
        return answer.embeddings(found, len(request.contents), self._where)

    async def _whole(self, path: str, asked: Body) -> Json:
        return await self._transport.post(path, {**asked, "stream": False}, self.key())

    async def _stream(self, path: str, asked: Body, fold: Fold[Chunk]) -> AsyncGenerator[Chunk]:
        reading = Reading(streamed.decoder(), fold, self._failure)
        return await stream(self._transport, path, {**asked, "stream": True}, self.key(), reading)

    def _failure(self, event: Json, key: str | None) -> MeshError:
        return failure(self._where, event, key)
