"""What the benchmarks ask: one conversation, as the generated messages and as bytes."""

from __future__ import annotations

from typing import Final

from stackmesh.common.v1 import content_pb2
from stackmesh.inference.v1 import inference_service_pb2 as pb

SERVICE: Final = "/stackmesh.inference.v1.InferenceService"
CHAT: Final = f"{SERVICE}/ChatCompletion"
STREAM_CHAT: Final = f"{SERVICE}/StreamChatCompletion"

SAID: Final = "hello " * 60
"""A prompt for those who need not understand it."""
STORY: Final = "Write a very long story about the sea."


def chat(model: str, said: str, max_tokens: int) -> pb.ChatCompletionRequest:
    """One user's message, answered greedily with at most `max_tokens` tokens."""
    user = content_pb2.Message(user=content_pb2.UserMessage(content=_content(said)))
    return pb.ChatCompletionRequest(model_id=model, messages=[user], sampling_params=_greedy(max_tokens))


def completion(model: str, text: str, max_tokens: int) -> pb.CompletionRequest:
    """A text, continued greedily by at most `max_tokens` tokens."""
    return pb.CompletionRequest(model_id=model, content=_content(text), sampling_params=_greedy(max_tokens))


def _content(text: str) -> content_pb2.Content:
    return content_pb2.Content(items=[content_pb2.ContentItem(text=text)])


def _greedy(max_tokens: int) -> pb.SamplingParams:
    return pb.SamplingParams(strategy=pb.SAMPLING_STRATEGY_GREEDY, max_tokens=max_tokens)
