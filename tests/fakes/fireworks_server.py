"""Fireworks' API for chats, completions, embeddings and models, as its documents and its SDK's types have it.

https://docs.fireworks.ai: API reference, structured outputs, querying embeddings, vision-language models, migrating to
Fireworks; `fireworks-ai` 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tests.fakes.http_server import Received, Reply
from tests.fakes.openai_model import Body, OpenAIDialectServer, Refused
from tests.fakes.toy_model import Token

CHAT_MODEL = "accounts/fireworks/models/llama-v3p1-8b-instruct"
EMBEDDING_MODEL = "nomic-ai/nomic-embed-text-v1.5"
"""It can be called, and is not in the list of models."""

_SAMPLING = {
    *("model", "max_tokens", "temperature", "top_p", "top_k", "min_p", "typical_p", "stop", "seed", "stream", "n"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "echo"),
    *("response_format", "context_length_exceeded_behavior", "ignore_eos", "user", "perf_metrics_in_response"),
}
_STOPS, _LIKELIEST, _PICTURES = 4, 5, 30
_UNSTREAMED = 4096
"""Tokens of an answer that is not streamed."""


class FireworksServer(OpenAIDialectServer):
    vendor: ClassVar = "fireworks"
    prefix: ClassVar = "/inference/v1"
    fields: ClassVar = {
        "/chat/completions": _SAMPLING
        | {"messages", "tools", "tool_choice", "parallel_tool_calls", "reasoning_effort"},
        "/completions": _SAMPLING | {"prompt", "images"},
        "/embeddings": {"model", "input", "encoding_format", "dimensions", "return_logits", "prompt_template"},
    }
    usage_unasked: ClassVar = True

    def __init__(self, *models: str, **more: Any) -> None:
        super().__init__(*(models or (CHAT_MODEL,)), **more)
        self.lists = True
        """Whether it can list the models of the account. Of many it cannot, and answers 500:
        github.com/The-AgenticFlow/openflows/issues/129.
        """

    def lets_in(self, key: str) -> bool:
        return bool(key) and super().lets_in(key)

    def answer(self, request: Received) -> Reply:
        if request.path == f"{self.prefix}/models" and not self.lists and self.refused_key(request) is None:
            return self.refusal(500)
        return super().answer(request)

    def listed(self) -> Any:
        about = {"object": "model", "owned_by": "fireworks", "created": 1}
        return {
            "object": "list",
            "data": [
                *({"id": name, "kind": "HF_BASE_MODEL", "supports_chat": True, **about} for name in self.models),
                {"id": "accounts/fireworks/models/flux-1-schnell-fp8", "kind": "FLUMINA_BASE_MODEL", **about},
            ],
        }

    def check(self, path: str, body: Body) -> None:
        super().check(path, {**body, "model": self.models[0] if body["model"] == EMBEDDING_MODEL else body["model"]})
        if not body.get("stream") and (body.get("max_tokens") or 0) > _UNSTREAMED:
            raise Refused(self.documented.refusal("not_streamed"))
        asked = body.get("top_logprobs") or int(body.get("logprobs") or 0)
        if len(body.get("stop") or ()) > _STOPS or asked > _LIKELIEST:
            raise ValueError("stop or logprobs")
        contents = [message.get("content") for message in body.get("messages") or ()]
        parts = [part for content in contents if isinstance(content, list) for part in content]
        if sum(part["type"] == "image_url" for part in parts) > _PICTURES:
            raise ValueError("images")

    def shape(self, body: Body) -> tuple[Any, str | None]:
        wanted = body.get("response_format") or {}
        return (None, wanted["grammar"]) if wanted.get("type") == "grammar" else super().shape(body)

    def chat_logprobs(self, tokens: Sequence[Token], top: int) -> Any:
        found = super().chat_logprobs(tokens, top)
        return {"content": [{**entry, "token_id": 1, "text_offset": 0} for entry in found["content"]]}
