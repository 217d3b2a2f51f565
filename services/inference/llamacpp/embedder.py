"""Vectors from the same model: the mean over a text's tokens.

Mean pooling needs a text in one batch, and batches as long as that would spoil cancellation for everybody else. So the
embedder has a context of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from services.inference.llamacpp.answers import embedding_failure, refusal
from services.inference.llamacpp.engine import Engine
from services.inference.llamacpp.server import Callback, LlamaServer, open_server
from stackmesh.inference.v1 import inference_service_pb2 as pb


class Embedder:
    """Embeds one text at a time, of at most `context_tokens`; others wait in a queue of `max_queue`."""

    _server: LlamaServer
    _engine: Engine
    _close: AsyncExitStack

    def __init__(self, path: Path, context_tokens: int, threads: int, max_queue: int) -> None:
        self._path = path
        self._context_tokens = context_tokens
        self._threads = threads
        self._max_queue = max_queue

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._server = await asyncio.to_thread(
                open_server,
                self._path,
                slots=1,
                context_tokens=self._context_tokens,
                n_batch=self._context_tokens,
                threads=self._threads,
                embedding=True,
            )
            stack.callback(self._unload)
            self._engine = await stack.enter_async_context(Engine(1, self._max_queue))
            self._close = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._close.aclose()

    async def embed(self, texts: Sequence[str]) -> pb.EmbeddingsResponse:
        """One vector of length 1 a text. Cancelling takes effect between texts."""
        server = self._server

        def call(hear: Callback) -> None:
            try:
                for text in texts:
                    if hear(server.handle_embeddings({"input": [text]})):
                        return
            except (ValueError, RuntimeError) as error:
                raise refusal(error) from None

        response = pb.EmbeddingsResponse(usage=pb.Usage())
        async with self._engine.run(call) as run:
            while messages := await run.take():
                for message in messages:
                    if "error" in message:
                        raise embedding_failure(message["error"], self._context_tokens)
                    response.embeddings.add(values=message["data"][0]["embedding"])
                    response.usage.prompt_tokens += message["usage"]["prompt_tokens"]
        return response

    def _unload(self) -> None:
        del self._server
