"""Together's API for chats, completions, embeddings and models, as its documents and recorded streams have it.

https://docs.together.ai (inference, logprobs, function calling), github.com/togethercomputer/openapi (April 2026). The
form of its streams is that of recordings: github.com/sst/opencode, packages/llm/test/fixtures/recordings
(openai-compatible-chat/togetherai-streams-text and -tool-call, April 2026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tests.fakes.http_server import Reply
from tests.fakes.openai_model import Body, OpenAIDialectServer, Refused
from tests.fakes.toy_model import Asked, Token

CHAT_MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
EMBEDDING_MODEL = "BAAI/bge-base-en-v1.5"
UNCOUNTED_MODEL = "togethercomputer/m2-bert-80M-32k-retrieval"
"""Embeds, and does not say what was used."""

_SAMPLING = {
    "model",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "seed",
    "stream",
    "stream_options",
}
_PENALTIES = {"repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "n", "echo", "logprobs"}
_CHAT = {"messages", "tools", "tool_choice", "response_format", "context_length_exceeded_behavior", "safety_model"}


class TogetherServer(OpenAIDialectServer):
    vendor: ClassVar = "together"
    fields: ClassVar = {
        "/chat/completions": _SAMPLING | _PENALTIES | _CHAT,
        "/completions": _SAMPLING | _PENALTIES | {"prompt", "safety_model"},
        "/embeddings": {"model", "input", "encoding_format"},
    }
    usage_unasked: ClassVar = True

    def __init__(self, *models: str, **more: Any) -> None:
        super().__init__(*(models or (CHAT_MODEL, EMBEDDING_MODEL, UNCOUNTED_MODEL)), **more)
        self.types: Mapping[str, str] = {EMBEDDING_MODEL: "embedding", UNCOUNTED_MODEL: "embedding"}
        """Of its models, those that do not chat."""
        self.not_serverless = "mistralai/Mixtral-8x7B-Instruct-v0.1"
        """A model that is listed and not served to everybody."""

    def lets_in(self, key: str) -> bool:
        return bool(key) and super().lets_in(key)

    def listed(self) -> Any:
        """A list, and not an object that has one."""
        return [
            {"id": name, "object": "model", "created": 1692896905, "type": self.types.get(name, "chat")}
            for name in [*self.models, self.not_serverless]
        ]

    def check(self, path: str, body: Body) -> None:
        if body["model"] == self.not_serverless:
            raise Refused(self.documented.refusal("not_serverless", model=self.not_serverless))
        super().check(path, body)
        if not 0 <= (body.get("logprobs") or 0) <= 20 or isinstance(body.get("logprobs"), bool):
            raise ValueError("logprobs")

    def too_long(self, prompt_tokens: int, context_tokens: int) -> Reply:
        return self.documented.refusal(
            "too_long", prompt_tokens=prompt_tokens, context_tokens=context_tokens, max_tokens=1
        )

    def top_logprobs(self, body: Body) -> int | None:
        """A number; 0 is none."""
        return body.get("logprobs") or None

    listed_top = top_logprobs

    def chat_logprobs(self, tokens: Sequence[Token], top: int) -> Any:
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprobs[token.text] for token in tokens],
            "token_ids": list(range(len(tokens))),
            "top_logprobs": [dict(token.logprobs) for token in tokens],
        }

    def chat_piece(
        self, delta: Body, asked: Asked, *, token: Token | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        said = {"token_id": 128009 if finish else None, "role": "assistant", "content": "", **delta}
        return {"delta": said, **self.completion_piece(said["content"], asked, token=token, finish=finish)}

    def completion_piece(
        self, text: str, asked: Asked, *, token: Token | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        """Its probabilities are a number, and others beside it."""
        choice: dict[str, Any] = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        if token is not None and asked.logprobs is not None:
            choice |= {"logprobs": token.logprobs[token.text], "top_logprobs": dict(token.logprobs)}
        return {**choice, "seed": 15924764223251450000 if finish else None}

    def embedded(self, model: str, tokens: int) -> Body:
        return {"request_id": "o1"} if model == UNCOUNTED_MODEL else super().embedded(model, tokens)
