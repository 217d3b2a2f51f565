"""A small server of the OpenAI dialect: models, chat, completions, embeddings, streams, errors.

By default it answers as a model would that always says `WORDS`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from tests.fakes.http_server import HttpServer, Received, Reply, failing, streaming, whole

WORDS = ("Hello", " there", "!")
USAGE = {"prompt_tokens": 11, "completion_tokens": len(WORDS), "total_tokens": 11 + len(WORDS)}


def event(delta: Mapping[str, Any] | None = None, **more: Any) -> bytes:
    """One event of a chat stream, with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None, **more}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "fake", "choices": [choice]})


def data(payload: Any) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
FINISH = event(finish_reason="stop")
COUNTED = data({"object": "chat.completion.chunk", "choices": [], "usage": USAGE})
END = FINISH + COUNTED + DONE


class OpenAIServer(HttpServer):
    def __init__(self, *models: str, key: str | None = None, port: int = 0) -> None:
        super().__init__(port=port)
        self.models = list(models or ("fake-model",))
        self.key = key
        """What it wants as a bearer token."""
        self.listing: Reply | None = None
        """What it answers to GET /v1/models instead of `models`."""

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.url = f"{self.root}/v1"
        return self

    def answer(self, request: Received) -> Reply:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return failing(401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}})
        if request.path == "/v1/models":
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
            return self.listing or whole(listed)
        return super().answer(request)

    def speak(self, request: Received) -> Reply:
        match request.path, request.body.get("stream", False):
            case "/v1/chat/completions", True:
                role = event({"role": "assistant", "content": ""})
                return streaming(role, *(event({"content": word}) for word in WORDS), FINISH, COUNTED, DONE)
            case "/v1/chat/completions", False:
                choice = {
                    "index": 0,
                    "message": {"role": "assistant", "content": "".join(WORDS)},
                    "finish_reason": "stop",
                }
                return whole({"object": "chat.completion", "choices": [choice], "usage": USAGE})
            case "/v1/completions", True:
                texts = [data({"choices": [{"index": 0, "text": word, "finish_reason": None}]}) for word in WORDS]
                finish = data({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
                return streaming(*texts, finish, COUNTED, DONE)
            case "/v1/completions", False:
                choice = {"index": 0, "text": "".join(WORDS), "finish_reason": "length", "logprobs": None}
                return whole({"object": "text_completion", "choices": [choice], "usage": USAGE})
            case "/v1/embeddings", _:
                vectors = [
                    {"index": i, "embedding": [float(len(text)), 0.5]} for i, text in enumerate(request.body["input"])
                ]
                return whole(
                    {"object": "list", "data": vectors[::-1], "usage": {"prompt_tokens": 4, "total_tokens": 4}}
                )
            case _:
                return failing(404, {"detail": "Not Found"})
