"""The streams of vendors' fakes, cut wherever a network may cut them, are the same answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from services.inference.openai.sse import EventDecoder
from services.inference.openai.stream import ChatFold, CompletionFold
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.fakes.fireworks_server import FireworksServer
from tests.fakes.http_server import Received
from tests.fakes.openai_model import OpenAIDialectServer
from tests.fakes.together_server import TogetherServer
from tests.fakes.vllm_server import VLLMServer

BY_FLAG = {"logprobs": True, "top_logprobs": 2}
CHATS = [(TogetherServer(), {"logprobs": 2}), (FireworksServer(), BY_FLAG), (VLLMServer(), BY_FLAG)]
IDS = ["together", "fireworks", "vllm"]
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TEXT = "😀 is é and 日本 & so on"
SAID = f"say {TEXT}"


def streamed(server: OpenAIDialectServer, path: str, **body: Any) -> bytes:
    asked = {"model": server.models[0], "stream": True, **body}
    if not server.usage_unasked:
        asked["stream_options"] = {"include_usage": True}
    reply = server.speak(Received("POST", server.prefix + path, {}, asked))
    assert reply.status == 200
    return b"".join(piece for piece in reply.pieces if isinstance(piece, bytes))


def spoken(server: OpenAIDialectServer, text: str, **more: Any) -> bytes:
    return streamed(server, "/chat/completions", messages=[{"role": "user", "content": text}], **more)


@dataclass
class Whole:
    """A streamed answer, however it came."""

    text: str = ""
    called: str = ""
    logprobs: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    stop_reason: str = ""
    tokens: int = 0


def read(fold: ChatFold | CompletionFold, *pieces: bytes) -> Whole:
    decoder = EventDecoder()
    chunks = [chunk for piece in pieces for chunk in fold.feed(decoder.feed(piece))]
    assert decoder.done
    whole = Whole()
    for chunk in [*chunks, *fold.end()]:
        if isinstance(chunk, pb.StreamChatCompletionResponse):
            told = chunk.event
            whole.text += told.text
            whole.called += f"{told.tool_call.content}{told.tool_call.call}"
        else:
            told = chunk
            whole.text += told.delta
        whole.logprobs += [dict(entry.logprobs_by_token) for entry in told.logprobs]
    whole.stop_reason, whole.tokens = StopReason.Name(told.stop_reason), told.usage.completion_tokens
    return whole


def check_cuts(fold: type[ChatFold | CompletionFold], stream: bytes) -> Whole:
    expected = read(fold("h:1"), stream)
    for at in range(1, len(stream)):
        assert read(fold("h:1"), stream[:at], stream[at:]) == expected
    assert read(fold("h:1"), *(stream[at : at + 1] for at in range(len(stream)))) == expected
    return expected


@pytest.mark.parametrize(("server", "logprobs"), CHATS, ids=IDS)
def test_a_chat_with_probabilities(server: OpenAIDialectServer, logprobs: dict[str, Any]) -> None:
    answer = check_cuts(ChatFold, spoken(server, SAID, **logprobs))
    assert (answer.text, answer.stop_reason) == (TEXT, "STOP_REASON_END_OF_TURN")
    assert "".join(max(entry, key=lambda token: entry[token]) for entry in answer.logprobs) == TEXT
    assert len(answer.logprobs) == answer.tokens


@pytest.mark.parametrize("server", [server for server, _ in CHATS], ids=IDS)
def test_a_chat_that_calls(server: OpenAIDialectServer) -> None:
    tools = [{"type": "function", "function": WEATHER}]
    answer = check_cuts(ChatFold, spoken(server, "call weather", tools=tools))
    assert '{"city": "Oslo"}' in answer.called
    assert answer.stop_reason == "STOP_REASON_END_OF_MESSAGE"


@pytest.mark.parametrize("server", [server for server, _ in CHATS], ids=IDS)
def test_a_completion_with_probabilities(server: OpenAIDialectServer) -> None:
    answer = check_cuts(CompletionFold, streamed(server, "/completions", prompt=SAID, logprobs=2))
    assert (answer.text, len(answer.logprobs)) == (TEXT, answer.tokens)
