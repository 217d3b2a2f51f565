"""A provider on any server that speaks the OpenAI dialect. Adapters add where the server is, its key and its ways."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, SecretStr

from services.inference.lookup import ModelLookup
from services.inference.openai import answer, request as body
from services.inference.openai.errors import meaning
from services.inference.openai.http import Endpoint, Http, drain
from services.inference.openai.request import Body, Dialect
from services.inference.openai.sse import EventDecoder
from services.inference.openai.stream import ChatFold, CompletionFold, Fold
from stackmesh import names
from stackmesh.errors import InvalidField, MeshError, NotHosted
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

_LISTING_TTL: Final = 2.0
"""Seconds a list of models is good for."""

Chunk = TypeVar("Chunk")


def _printable(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces, and not empty")
    return key


Key = Annotated[SecretStr, AfterValidator(_printable)]
"""A credential that fits into a header."""


def _or_none(key: object) -> object:
    return None if key == "" else key


OwnKey = Annotated[Key | None, BeforeValidator(_or_none)]
"""The configured credential. An empty one is none: `${env.NAME:}` gives it where the variable is not set."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """An answer to GET /models. Times are time.monotonic()."""

    begun: float
    until: float
    """It is good until then."""
    key: str | None
    found: Sequence[str] | MeshError


class OpenAICompatible:
    """The methods of an InferenceProvider over one endpoint.

    An adapter is a subclass: it says which endpoint and dialect, what its models are called besides their ids, and
    overrides `key`.
    """

    def __init__(self, endpoint: Endpoint, dialect: Dialect, lookup: ModelLookup) -> None:
        self._http = Http(endpoint)
        self._dialect = dialect
        self._lookup = lookup
        self._where = endpoint.host
        self._listing = asyncio.Lock()
        self._listed = _Listed(0.0, 0.0, None, ())

    def key(self) -> str | None:
        """The credential of the current call: the caller's, else the server's own. None: the server wants none."""
        return None

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__(*exc_info)

    async def list_served(self) -> Sequence[str]:
        """The ids of GET /models that can be registered. What was found, or failed, holds for 2 s."""
        return await self._list(lambda last: time.monotonic() < last.until)

    async def _list(self, good: Callable[[_Listed], bool]) -> Sequence[str]:
        """As last listed, if that is good enough."""
        key = self.key()
        async with self._listing:
            if self._listed.key != key or not good(self._listed):
                begun = time.monotonic()
                found = await self._ask_for_models(key)
                self._listed = _Listed(begun, time.monotonic() + _LISTING_TTL, key, found)
            found = self._listed.found
        if isinstance(found, MeshError):
            raise found
        return found

    async def _ask_for_models(self, key: str | None) -> Sequence[str] | MeshError:
        try:
            found = await self._http.get("/models", key)
            with answer.sensible(self._where):
                return [str(model["id"]) for model in found["data"] if _can_be_registered(model["id"])]
        except MeshError as error:
            return error

    async def resolve(self, wanted: Wanted) -> str:
        """What is not in an older list may have been pulled since."""
        name, now = wanted.provider_resource_id, time.monotonic()
        try:
            return self._lookup.resolve(name, await self.list_served(), self._where)
        except NotHosted:
            return self._lookup.resolve(name, await self._list(lambda last: last.begun >= now), self._where)

    async def load(self, wanted: Wanted) -> None:
        """What the backend serves is the backend's business."""

    async def unload(self, provider_resource_id: str) -> None:
        """As for `load`."""

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        asked = body.completion(request, self._dialect)
        return answer.completion(await self._http.post("/completions", asked, self.key()), self._where)

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        asked = body.completion(request, self._dialect)
        return await self._stream("/completions", asked, CompletionFold(self._where))

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        asked = body.chat(request, self._dialect)
        return answer.chat(await self._http.post("/chat/completions", asked, self.key()), self._where)

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        asked = body.chat(request, self._dialect)
        return await self._stream("/chat/completions", asked, ChatFold(self._where))

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        asked = body.embeddings(request)
        found = await self._http.post("/embeddings", asked, self.key())
        return answer.embeddings(found, len(request.contents), self._where)

    async def _stream(self, path: str, asked: Body, fold: Fold[Chunk]) -> AsyncGenerator[Chunk]:
        """The stream once its first event is here, so that what is wrong before it is raised from here.

        The generator has then begun: closing it closes the connection even if nobody ever reads from it.
        """
        chunks = self._chunks(path, body.streamed(asked), self.key(), fold)
        await anext(chunks)
        return cast("AsyncGenerator[Chunk]", chunks)

    async def _chunks(self, path: str, asked: Body, key: str | None, fold: Fold[Chunk]) -> AsyncGenerator[Chunk | None]:
        """None when the first event is here, then the chunks."""
        decoder = EventDecoder()
        begun = False
        async with self._http.stream(path, asked, key) as response:
            while not decoder.done and (data := await response.content.readany()):
                events = decoder.feed(data)
                if not events:
                    continue
                with answer.sensible(self._where):
                    chunks = fold.feed(events)
                if fold.failure is not None and not chunks:
                    raise self._failure(fold.failure, key)
                if not begun:
                    begun = True
                    yield None
                    for chunk in fold.start():
                        yield chunk
                for chunk in chunks:
                    yield chunk
                if fold.failure is not None:
                    raise self._failure(fold.failure, key)
            with answer.sensible(self._where):
                chunks = list(fold.end())
            for chunk in chunks:
                yield chunk
            await drain(response)

    def _failure(self, event: Body, key: str | None) -> MeshError:
        """The meaning of an error event. Its `code` is the status the server would have answered with."""
        error: Any = event.get("error", event)
        code: Any = error.get("code") if isinstance(error, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- JSON
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
        return meaning(self._where, status, event, key=key)


def _can_be_registered(name: object) -> bool:
    try:
        names.check_resource_name("", str(name))
    except InvalidField:
        return False
    return True
