"""Ollama's words for what a ToyModel is asked, and for what it answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes.toy_model import Answer, Asked, Call, Said, Token

Body = Mapping[str, Any]

MODEL = "llama3.2:1b-instruct-fp16"
_MESSAGE = {"role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id"}


def line(payload: Body) -> bytes:
    return json.dumps(payload, ensure_ascii=False).encode() + b"\n"


def said(text: str = "", **more: Any) -> bytes:
    """One line of a chat stream; `done=True` makes it the last."""
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    return line({"model": MODEL, "created_at": "2026-01-01T00:00:00Z", "message": message, "done": False, **more})


USED = {"prompt_eval_count": 11, "eval_count": 3}
DONE = said(done=True, done_reason="stop", **USED)


def tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def listed(name: str) -> dict[str, Any]:
    """As /api/ps and /api/tags have it."""
    return {"name": name, "model": name, "size": 1, "digest": "sha256:0", "details": {"format": "gguf"}}


def stamp(asked: Asked) -> Body:
    return {"model": asked.model, "created_at": "2026-01-01T00:00:00Z"}


def end(answer: Answer) -> Body:
    """What the last object of an answer says."""
    return {
        "done": True,
        "done_reason": "length" if answer.finish == "length" else "stop",
        "total_duration": 5,
        "load_duration": 1,
        "prompt_eval_count": answer.prompt_tokens,
        "prompt_eval_duration": 1,
        "eval_count": answer.completion_tokens,
        "eval_duration": 1,
    }


def logprobs(tokens: Sequence[Token], top: int | None) -> Body:
    if top is None or not tokens:
        return {}
    return {"logprobs": [_entry(token, top) for token in tokens]}


def _entry(token: Token, top: int) -> Body:
    likeliest = [_likely(text, value) for text, value in token.logprobs.items()][:top]
    return {**_likely(token.text, token.logprobs[token.text]), **({"top_logprobs": likeliest} if top else {})}


def _likely(text: str, logprob: float) -> Body:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def message_of(message: Body) -> Said:
    if unknown := message.keys() - _MESSAGE:
        raise ValueError(unknown)
    if message["role"] not in ("system", "user", "assistant", "tool"):
        raise ValueError(message["role"])
    calls = [_called(call) for call in message.get("tool_calls") or ()]
    images = [base64.b64decode(image, validate=True) for image in message.get("images") or ()]
    answers = message.get("tool_call_id") or message.get("tool_name") or ""
    text = message.get("content", "")
    if not isinstance(text, str):
        raise TypeError(
            "json: cannot unmarshal content into Go struct field ChatRequest.messages.content of type string"
        )
    return Said(message["role"], text, images, calls, answers)


def _called(call: Body) -> Call:
    function = call["function"]
    if not isinstance(function["arguments"], dict):
        raise TypeError("Value looks like object, but can't find closing '}' symbol")
    return Call(function["name"], function["arguments"], call.get("id") or "")


def call(index: int, call: Call) -> Body:
    """Ids came with v0.12.10."""
    named = {"id": call.call_id} if call.call_id else {}
    return {**named, "function": {"index": index, "name": call.name, "arguments": call.arguments}}
