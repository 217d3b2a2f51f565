"""Answers of the OpenAI dialect, from JSON to messages of ours; what whole answers and streams have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.inference import texts, tools
from services.inference.remote.errors import sensible
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable, Internal
from stackmesh.inference.v1 import inference_service_pb2 as pb

StopReason = content_pb2.StopReason
Json = Mapping[str, Any]

_STOP_REASONS: Final[Mapping[str, StopReason.ValueType]] = {
    "length": StopReason.STOP_REASON_OUT_OF_TOKENS,
    "tool_calls": StopReason.STOP_REASON_END_OF_MESSAGE,
    "function_call": StopReason.STOP_REASON_END_OF_MESSAGE,
}
"""Everything else ends the turn: `stop`, `eos_token` (TGI), `content_filter`."""
_BROKEN: Final = ("abort", "error")
"""What vLLM says when it gave up on a request."""


def completion(answer: Json, where: str) -> pb.CompletionResponse:
    """What /completions answered."""
    with sensible(where):
        choice = answer["choices"][0]
        return pb.CompletionResponse(
            content=choice["text"],
            stop_reason=stop_reason(choice["finish_reason"], where),
            logprobs=logprobs(choice.get("logprobs")),
            usage=usage(answer["usage"]),
        )


def chat(answer: Json, where: str) -> pb.ChatCompletionResponse:
    """What /chat/completions answered. The text of a tool call that is none becomes part of the content."""
    with sensible(where):
        choice = answer["choices"][0]
        message = choice["message"]
        said, calls = message.get("content") or "", list[content_pb2.ToolCall]()
        for raw in message.get("tool_calls") or ():
            function = raw["function"]
            call = tools.written_call(raw.get("id"), function.get("name"), function.get("arguments"))
            if call is None:
                said += function.get("arguments") or ""
            else:
                calls.append(call)
        reason = stop_reason(choice["finish_reason"], where, called=bool(calls))
        return pb.ChatCompletionResponse(
            completion_message=content_pb2.CompletionMessage(
                content=texts.content(said) if said else None, stop_reason=reason, tool_calls=calls
            ),
            logprobs=logprobs(choice.get("logprobs")),
            usage=usage(answer["usage"]),
        )


def embeddings(answer: Json, count: int, where: str) -> pb.EmbeddingsResponse:
    """What /embeddings answered for `count` texts. Who does not say what was used (Together, for some models) leaves it
    unknown: 0.
    """
    with sensible(where):
        vectors = sorted(answer["data"], key=lambda item: item["index"])
        if [item["index"] for item in vectors] != list(range(count)):
            raise Internal(f"{where} answered {count} texts with {len(vectors)} embeddings")
        return pb.EmbeddingsResponse(
            embeddings=[pb.Embedding(values=item["embedding"]) for item in vectors],
            usage=pb.Usage(prompt_tokens=(answer.get("usage") or {"prompt_tokens": 0})["prompt_tokens"]),
        )


def stop_reason(finish_reason: str, where: str, *, called: bool = False) -> StopReason.ValueType:
    """Why generation ended. A forced tool call ends with `stop` at some servers, hence `called`."""
    if finish_reason in _BROKEN:
        raise BackendUnreachable(f"{where} gave up before its answer was complete")
    usual = StopReason.STOP_REASON_END_OF_MESSAGE if called else StopReason.STOP_REASON_END_OF_TURN
    return _STOP_REASONS.get(finish_reason, usual)


def usage(counted: Json) -> pb.Usage:
    """What the server counted."""
    return pb.Usage(prompt_tokens=counted["prompt_tokens"], completion_tokens=counted.get("completion_tokens") or 0)


def streamed_logprobs(choice: Json, text: str) -> Sequence[pb.TokenLogProbs]:
    """Those of an event that has some. Together's are a number: `text` is the one token."""
    found = choice["logprobs"]
    if not isinstance(found, float | int):
        return logprobs(found)
    likeliest: Json = choice.get("top_logprobs") or {}
    return [pb.TokenLogProbs(logprobs_by_token={**likeliest, text: found})] if text else ()


def logprobs(found: Json | None) -> Sequence[pb.TokenLogProbs]:
    """One entry a token, from the form of chat, or from the older one of /completions."""
    if not found:
        return ()
    if (content := found.get("content")) is not None:  # llama.cpp has this form in /completions too
        return [_chat_logprobs(token) for token in content]
    chosen = zip(found.get("tokens") or (), found.get("token_logprobs") or (), strict=True)
    others = found.get("top_logprobs") or ()
    return [
        pb.TokenLogProbs(logprobs_by_token={**(others[i] or {} if i < len(others) else {}), token: value})
        for i, (token, value) in enumerate(chosen)
    ]


def _chat_logprobs(token: Json) -> pb.TokenLogProbs:
    likeliest = {other["token"]: other["logprob"] for other in token.get("top_logprobs") or ()}
    return pb.TokenLogProbs(logprobs_by_token={**likeliest, token["token"]: token["logprob"]})
