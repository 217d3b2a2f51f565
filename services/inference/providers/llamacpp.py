"""inline::llamacpp: a GGUF model in this process, on llama.cpp.

A prompt is read `n_batch` tokens at a time and a call can be stopped between batches only, so small batches are what
bounds cancellation; on a CPU larger ones are not faster.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Annotated, ClassVar, Final, Self, TypeVar, cast

from pydantic import Field, PositiveInt, model_validator

from services.inference import chunks, tables, texts
from services.inference.llamacpp.answers import Answer, End, Piece
from services.inference.llamacpp.embedder import Embedder
from services.inference.llamacpp.engine import Call, Engine, Run
from services.inference.llamacpp.generation import Handle, generation
from services.inference.llamacpp.models import BUNDLED, locate
from services.inference.llamacpp.requests import (
    Body,
    chat_body,
    check_length,
    completion_body,
    json_schema,
    must_call,
    text_of,
)
from services.inference.llamacpp.server import LlamaServer, open_server
from services.inference.llamacpp.templates import ChatTemplate, template_of
from services.inference.lookup import Listed, ModelLookup
from stackmesh.common.v1 import content_pb2
from stackmesh.config import ConfigError, Frozen, ResourceName
from stackmesh.errors import NotServing, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.providers import Wanted

T = TypeVar("T")
Generation = pb.CompletionRequest | pb.ChatCompletionRequest

_FAILURE: Final = pb.ToolCallParseStatus.TOOL_CALL_PARSE_STATUS_FAILURE


def _free_cores() -> int:
    """All cores but one: llama.cpp slows down badly when its threads have to share theirs."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaCppConfig(Frozen):
    model: ResourceName = "smollm2-135m-instruct"
    """A bundled model; with `path`, any name for the model in that file. A Llama model's name brings its others."""
    path: Path | None = None
    """A GGUF file."""
    chat_template: Path | None = None
    """A Jinja file, taken in place of the model's own. One that knows no tools is taught to tell of them in words."""
    context_tokens: PositiveInt = 2048
    """Tokens a request may have, prompt and answer together; the model's own limit if that is lower."""
    n_parallel: Annotated[int, Field(ge=1, le=64)] = 2
    """Requests worked on at the same time. Each has memory for a context of its own."""
    n_batch: Annotated[int, Field(ge=1, le=4096)] = 8
    """Tokens of a prompt that are read at once. Cancelling waits for two batches at most, 70 ms each on one core."""
    threads: PositiveInt = Field(default_factory=_free_cores)
    """Threads of llama.cpp. The default is all cores but one; more than are free slow everything down."""
    max_queue: Annotated[int, Field(ge=0)] = 64
    """Requests that may wait for a place among the `n_parallel`."""
    embeddings: bool = True
    """Whether it embeds, too. It costs a second context, and the model's weights once more."""
    embedding_tokens: PositiveInt = 512
    """Tokens a text to be embedded may have. A text is read as a whole: cancelling waits for the end of one."""
    ignore_eos: bool = False
    """Go on until max_tokens or the context's end, whatever the model says. For benchmarks."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.path is None and self.model not in BUNDLED:
            raise ValueError(f"no model {self.model} is bundled; there are: {', '.join(BUNDLED)}; or set `path`")
        return self


class LlamaCpp:
    Config: ClassVar[type[Frozen]] = LlamaCppConfig

    _template: ChatTemplate
    _server: LlamaServer
    _engine: Engine
    _embedder: Embedder | None
    _close: AsyncExitStack

    def __init__(self, config: LlamaCppConfig, *, run: Callable[[Call], Run] = Run) -> None:
        self._config = config
        self._run = run
        self._lookup = ModelLookup([Listed(config.model, _aliases(config))])

    async def __aenter__(self) -> Self:
        config, path = self._config, self._path()
        async with AsyncExitStack() as stack:
            self._template = await asyncio.to_thread(template_of, path, self._given_template())
            self._server = await asyncio.to_thread(
                open_server,
                path,
                chat_template=self._template.source,
                slots=config.n_parallel,
                context_tokens=config.context_tokens,
                n_batch=config.n_batch,
                threads=config.threads,
            )
            stack.callback(self._unload)
            self._engine = await stack.enter_async_context(Engine(config.n_parallel, config.max_queue, self._run))
            self._embedder = None
            if config.embeddings:
                embedder = Embedder(path, config.embedding_tokens, config.threads, config.max_queue)
                self._embedder = await stack.enter_async_context(embedder)
            self._close = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close.aclose()

    async def resolve(self, wanted: Wanted) -> str:
        return self._lookup.resolve(wanted.provider_resource_id, None, "llama.cpp")

    async def load(self, wanted: Wanted) -> None:
        """The one model is loaded already."""

    async def unload(self, provider_resource_id: str) -> None:
        """It stays loaded while the process runs."""

    async def list_served(self) -> Sequence[str]:
        return (self._config.model,)

    async def completion(self, request: pb.CompletionRequest) -> pb.CompletionResponse:
        whole, end = await _whole(self._complete(request))
        return pb.CompletionResponse(
            content=whole.text, stop_reason=end.stop_reason, logprobs=whole.logprobs, usage=end.usage
        )

    async def stream_completion(self, request: pb.CompletionRequest) -> AsyncGenerator[pb.StreamCompletionResponse]:
        return await _begun(_chunks(self._complete(request)))

    async def chat_completion(self, request: pb.ChatCompletionRequest) -> pb.ChatCompletionResponse:
        whole, end = await _whole(self._chat(request))
        text = whole.text + "".join(delta.content for delta in whole.calls if delta.parse_status == _FAILURE)
        said = content_pb2.CompletionMessage(
            content=texts.content(text) if text else None,
            tool_calls=[delta.call for delta in whole.calls if delta.HasField("call")],
            stop_reason=end.stop_reason,
        )
        return pb.ChatCompletionResponse(completion_message=said, logprobs=whole.logprobs, usage=end.usage)

    async def stream_chat_completion(
        self, request: pb.ChatCompletionRequest
    ) -> AsyncGenerator[pb.StreamChatCompletionResponse]:
        return await _begun(_events(self._chat(request)))

    async def embeddings(self, request: pb.EmbeddingsRequest) -> pb.EmbeddingsResponse:
        self._check_model(request.model_id)
        if self._embedder is None:
            raise Unsupported("embeddings are switched off in this provider's configuration")
        said = [text_of(f"contents[{index}]", content) for index, content in enumerate(request.contents)]
        for index, text in enumerate(said):
            check_length(f"contents[{index}]", len(text), self._config.embedding_tokens)
        return await self._embedder.embed(said)

    def _complete(self, request: pb.CompletionRequest) -> AsyncGenerator[Piece | End]:
        body = completion_body(request, self._config.context_tokens)
        return self._generate(request, self._server.handle_completions, body)

    def _chat(self, request: pb.ChatCompletionRequest) -> AsyncGenerator[Piece | End]:
        body = chat_body(request, self._config.context_tokens, taught=self._template.taught)
        must = must_call(request) and not request.sampling_params.stop  # which may end an answer before its call
        return self._generate(request, self._server.handle_chat_completions, body, must_call=must)

    async def _generate(
        self, request: Generation, handle: Handle, body: Body, *, must_call: bool = False
    ) -> AsyncGenerator[Piece | End]:
        """Pieces with something in them, then the End."""
        self._check_model(request.model_id)
        if self._config.ignore_eos:
            body["ignore_eos"] = True
        schema = json_schema(request.response_format)
        call = generation(self._server, handle, body, schema)
        answer = Answer(request.logprobs.top_k if request.HasField("logprobs") else None, must_call=must_call)
        async with self._engine.run(call) as run:
            while messages := await run.take():
                piece = answer.read(messages)
                if piece.text or piece.calls:
                    yield piece
        yield answer.end()

    def _check_model(self, name: str) -> None:
        if name != self._config.model:
            raise NotServing(f"llama.cpp serves {self._config.model} here, not {name!r}")

    def _path(self) -> Path:
        """The model's file. Raises ConfigError when it is not there."""
        path = self._config.path
        if path is None:
            return locate(self._config.model, BUNDLED[self._config.model])
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such model file; `path` has to be a GGUF file")
        return path

    def _given_template(self) -> str:
        """The template of the configuration, or nothing. Raises ConfigError when it cannot be read."""
        path = self._config.chat_template
        try:
            return path.read_text(encoding="utf-8") if path is not None else ""
        except (OSError, ValueError):
            raise ConfigError(f"{path}: cannot be read; `chat_template` has to be a Jinja file") from None

    def _unload(self) -> None:
        del self._server


def _aliases(config: LlamaCppConfig) -> frozenset[str]:
    if config.path is None:
        return frozenset(BUNDLED[config.model].aliases)
    return tables.llama().names.get(config.model, frozenset()) - {config.model}


async def _whole(parts: AsyncGenerator[Piece | End]) -> tuple[Piece, End]:
    whole = Piece()
    async with aclosing(parts):
        while isinstance(part := await anext(parts), Piece):
            whole.text += part.text
            whole.logprobs += part.logprobs
            whole.calls += part.calls
    return whole, part


async def _begun(stream: AsyncGenerator[T | None]) -> AsyncGenerator[T]:
    """The stream, past its first item, which is None and comes when the first token is there.

    What is wrong before it is raised here. And a generator has to have begun for its closing to do anything.
    """
    await anext(stream)
    return cast("AsyncGenerator[T]", stream)


async def _chunks(parts: AsyncGenerator[Piece | End]) -> AsyncGenerator[pb.StreamCompletionResponse | None]:
    async with aclosing(parts):
        part = await anext(parts)
        yield None
        while isinstance(part, Piece):
            yield pb.StreamCompletionResponse(delta=part.text, logprobs=part.logprobs)
            part = await anext(parts)
        yield pb.StreamCompletionResponse(stop_reason=part.stop_reason, usage=part.usage)


async def _events(parts: AsyncGenerator[Piece | End]) -> AsyncGenerator[pb.StreamChatCompletionResponse | None]:
    async with aclosing(parts):
        part = await anext(parts)
        yield None
        yield chunks.START
        while isinstance(part, Piece):
            if part.text:
                yield chunks.said(part.text, part.logprobs)
            for delta in part.calls:
                yield chunks.called(delta)
            part = await anext(parts)
        yield chunks.complete(part.stop_reason, part.usage)
