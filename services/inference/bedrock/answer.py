"""Answers of Converse, from JSON to messages of ours; what whole answers and streams have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from services.inference import texts, tools
from services.inference.remote.errors import sensible
from services.inference.stops import cut
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import Internal
from stackmesh.inference.v1 import inference_service_pb2 as pb

StopReason = content_pb2.StopReason
Json = Mapping[str, Any]

_STOP_REASONS: Final[Mapping[str, StopReason.ValueType]] = {
    "tool_use": StopReason.STOP_REASON_END_OF_MESSAGE,
    "max_tokens": StopReason.STOP_REASON_OUT_OF_TOKENS,
    "model_context_window_exceeded": StopReason.STOP_REASON_OUT_OF_TOKENS,
}
"""Everything else ends the turn: end_turn, stop_sequence, guardrail_intervened, content_filtered."""


def chat(answer: Json, stops: Sequence[str], where: str) -> pb.ChatCompletionResponse:
    """What Converse answered. Its reasoning, if it shows any, is no part of it."""
    with sensible(where):
        said, calls = "", list[content_pb2.ToolCall]()
        for block in answer["output"]["message"]["content"]:
            said += block.get("text") or ""
            if used := block.get("toolUse"):
                calls.append(tools.call(used["toolUseId"], used["name"], used["input"] or {}))
        said = cut(said, stops)
        reason = stop_reason(answer["stopReason"], where)
        return pb.ChatCompletionResponse(
            completion_message=content_pb2.CompletionMessage(
                content=texts.content(said) if said else None, stop_reason=reason, tool_calls=calls
            ),
            usage=usage(answer["usage"]),
        )


def stop_reason(said: str, where: str) -> StopReason.ValueType:
    """Why generation ended."""
    if said == "malformed_model_output":
        raise Internal(f"the model behind {where} wrote something that Bedrock could not read")
    return _STOP_REASONS.get(said, StopReason.STOP_REASON_END_OF_TURN)


def usage(counted: Json) -> pb.Usage:
    """Bedrock counts what it has read from its cache, or put there, apart."""
    cached = (counted.get("cacheReadInputTokens") or 0) + (counted.get("cacheWriteInputTokens") or 0)
    return pb.Usage(prompt_tokens=counted["inputTokens"] + cached, completion_tokens=counted["outputTokens"])
