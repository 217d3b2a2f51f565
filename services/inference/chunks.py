"""The messages of a chat stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.inference.v1 import inference_service_pb2 as pb

Chunk = pb.StreamChatCompletionResponse

_Type = pb.ChatCompletionEventType
_PROGRESS: Final = _Type.CHAT_COMPLETION_EVENT_TYPE_PROGRESS

START: Final = Chunk(event=pb.ChatCompletionEvent(event_type=_Type.CHAT_COMPLETION_EVENT_TYPE_START))
"""What precedes all others."""


def said(text: str, logprobs: Iterable[pb.TokenLogProbs] = ()) -> Chunk:
    """More text."""
    chunk = Chunk()
    event = chunk.event  # filled in place: half the cost of handing it over
    event.event_type = _PROGRESS
    event.text = text
    if logprobs:
        event.logprobs.extend(logprobs)
    return chunk


def called(delta: pb.ToolCallDelta) -> Chunk:
    """More of a tool call."""
    return Chunk(event=pb.ChatCompletionEvent(event_type=_PROGRESS, tool_call=delta))


def complete(stop_reason: StopReason.ValueType, usage: pb.Usage, logprobs: Iterable[pb.TokenLogProbs] = ()) -> Chunk:
    """The last one. `logprobs` are those that no text has taken along."""
    return Chunk(
        event=pb.ChatCompletionEvent(
            event_type=_Type.CHAT_COMPLETION_EVENT_TYPE_COMPLETE,
            stop_reason=stop_reason,
            usage=usage,
            logprobs=logprobs,
        )
    )
