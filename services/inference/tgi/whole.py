"""Whole answers, gathered from their streams.

TGI's own whole answers are worse: /generate tells the prompt's tokens in a header alone, a text that `max_new_tokens`
ends within a character is empty, and one that goes on after a stop sequence goes on to its end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.inference import texts
from stackmesh.inference.v1 import inference_service_pb2 as pb

_Parse = pb.ToolCallParseStatus


async def completion(stream: AsyncGenerator[pb.StreamCompletionResponse]) -> pb.CompletionResponse:
    """All that a completion's stream says."""
    answer, said = pb.CompletionResponse(), list[str]()
    async with aclosing(stream):
        async for chunk in stream:
            said.append(chunk.delta)
            answer.logprobs.extend(chunk.logprobs)
            if chunk.HasField("usage"):
                answer.stop_reason = chunk.stop_reason
                answer.usage.CopyFrom(chunk.usage)
    answer.content = "".join(said)
    return answer


async def chat(stream: AsyncGenerator[pb.StreamChatCompletionResponse]) -> pb.ChatCompletionResponse:
    """All that a chat's stream says. The text of a tool call that is none becomes part of the content."""
    answer, said = pb.ChatCompletionResponse(), list[str]()
    message = answer.completion_message
    async with aclosing(stream):
        async for chunk in stream:
            event = chunk.event
            said.append(event.text)
            if event.tool_call.parse_status == _Parse.TOOL_CALL_PARSE_STATUS_SUCCESS:
                message.tool_calls.append(event.tool_call.call)
            elif event.tool_call.parse_status == _Parse.TOOL_CALL_PARSE_STATUS_FAILURE:
                said.append(event.tool_call.content)
            answer.logprobs.extend(event.logprobs)
            if event.HasField("usage"):
                message.stop_reason = event.stop_reason
                answer.usage.CopyFrom(event.usage)
    if text := "".join(said):
        message.content.CopyFrom(texts.content(text))
    return answer
