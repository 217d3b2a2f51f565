"""Answers of Ollama's API, from JSON to messages of ours; what whole answers and streams have in common.

What a model thinks before it speaks (`thinking`) is left out; it counts as used, and has probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.inference import texts, tools
from services.inference.openai import answer as openai
from services.inference.remote.errors import sensible
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable, Internal
from stackmesh.inference.v1 import inference_service_pb2 as pb

StopReason = content_pb2.StopReason
Json = Mapping[str, Any]

_NOTHING_SAID: Final = ("load", "unload")
"""How Ollama ends what it takes for a wish to load a model, or to let go of it."""


def completion(answer: Json, where: str) -> pb.CompletionResponse:
    """What /api/generate answered."""
    with sensible(where):
        return pb.CompletionResponse(
            content=answer["response"],
            stop_reason=stop_reason(answer, where),
            logprobs=logprobs(answer),
            usage=usage(answer),
        )


def chat(answer: Json, where: str) -> pb.ChatCompletionResponse:
    """What /api/chat answered. The text of a tool call that is none becomes part of the content."""
    with sensible(where):
        message = answer["message"]
        said, calls = message.get("content") or "", list[content_pb2.ToolCall]()
        for raw in message.get("tool_calls") or ():
            call_id, name, arguments = written(raw)
            call = tools.written_call(call_id, name, arguments)
            if call is None:
                said += arguments
            else:
                calls.append(call)
        reason = stop_reason(answer, where, called=bool(calls))
        return pb.ChatCompletionResponse(
            completion_message=content_pb2.CompletionMessage(
                content=texts.content(said) if said else None, stop_reason=reason, tool_calls=calls
            ),
            logprobs=logprobs(answer),
            usage=usage(answer),
        )


def embeddings(answer: Json, count: int, where: str) -> pb.EmbeddingsResponse:
    """What /api/embed answered for `count` texts."""
    with sensible(where):
        vectors = answer["embeddings"]
        if len(vectors) != count:
            raise Internal(f"{where} answered {count} texts with {len(vectors)} embeddings")
        return pb.EmbeddingsResponse(
            embeddings=[pb.Embedding(values=values) for values in vectors], usage=usage(answer)
        )


def written(call: Json) -> tuple[str, str, str]:
    """The id, the name and the arguments of a tool call, these as text. Ollama has ids since v0.12.10."""
    function = call["function"]
    arguments = json.dumps(function.get("arguments") or {}, ensure_ascii=False)
    return call.get("id") or "", function.get("name") or "", arguments


def stop_reason(last: Json, where: str, *, called: bool = False) -> StopReason.ValueType:
    """Why generation ended, of the object that says so. Old versions give no reason."""
    if not last["done"]:
        raise BackendUnreachable(f"{where} ended its answer early")
    reason = last.get("done_reason")
    if reason in _NOTHING_SAID:
        raise BackendUnreachable(f"{where} has answered nothing, it was busy with loading or unloading the model")
    if reason == "length":
        return StopReason.STOP_REASON_OUT_OF_TOKENS
    return StopReason.STOP_REASON_END_OF_MESSAGE if called else StopReason.STOP_REASON_END_OF_TURN


def usage(last: Json) -> pb.Usage:
    """What the server counted. A number that it leaves out is 0."""
    return pb.Usage(prompt_tokens=last.get("prompt_eval_count") or 0, completion_tokens=last.get("eval_count") or 0)


def logprobs(event: Json) -> Sequence[pb.TokenLogProbs]:
    """One entry a token, in the form of OpenAI's chat. Ollama gives them since v0.12.11."""
    found = event.get("logprobs")
    return openai.logprobs({"content": found}) if found else ()
