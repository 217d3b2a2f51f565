"""llama.cpp's messages as pieces of text and of tool calls, and its errors as ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from services.inference.llamacpp.server import Message
from services.inference.tool_calls import ToolCalls
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import BackendRejected, ContextExceeded, Internal, MeshError, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

log = logging.getLogger(__name__)

_TOO_LARGE: Final = re.compile(r"input \((\d+) tokens\) is too large to process")


@dataclass(slots=True)
class Piece:
    """More of an answer. It may be empty."""

    text: str = ""
    logprobs: list[pb.TokenLogProbs] = field(default_factory=list[pb.TokenLogProbs])
    calls: list[pb.ToolCallDelta] = field(default_factory=list[pb.ToolCallDelta])
    """Of tool calls, which come after the text."""


@dataclass(slots=True)
class End:
    """How an answer ended."""

    stop_reason: StopReason.ValueType
    usage: pb.Usage


class Answer:
    """Reads the messages of one completion."""

    def __init__(self, top_logprobs: int | None = None, *, must_call: bool = False) -> None:
        """`top_logprobs`: the likeliest tokens to report at each position; None reports nothing.

        `must_call`: an answer that ends of itself without a tool call is wrong.
        """
        self._top = top_logprobs
        self._must_call = must_call
        self._held: list[pb.TokenLogProbs] = []
        self._calls = ToolCalls()
        self._called = False
        self._finish_reason: str | None = None
        self._usage: pb.Usage | None = None

    def read(self, messages: Iterable[Message]) -> Piece:
        """The messages' text, joined, and what there is of calls. Raises what a message reports."""
        piece = Piece()
        for message in messages:
            if "error" in message:
                raise failure(message["error"])
            if (usage := message.get("usage")) is not None:
                self._usage = pb.Usage(
                    prompt_tokens=usage["prompt_tokens"], completion_tokens=usage["completion_tokens"]
                )
            for choice in message["choices"]:
                self._read(choice, piece)
        self._tell(self._calls.flush(), piece)
        return piece

    def end(self) -> End:
        """What is known when all messages are read. Raises Internal when the answer has no end, Unsupported when it
        lacks the call that had to be: of a chat template that it cannot make sense of, llama.cpp ignores the tools.
        """
        if self._usage is None or self._finish_reason is None:
            raise Internal("llama.cpp stopped in the middle of its answer")
        if self._finish_reason == "length":
            return End(StopReason.STOP_REASON_OUT_OF_TOKENS, self._usage)
        if self._called:
            return End(StopReason.STOP_REASON_END_OF_MESSAGE, self._usage)
        if self._must_call and not self._calls.seen:
            raise Unsupported("tool_choice: llama.cpp cannot hold a model with this chat template to a tool call")
        return End(StopReason.STOP_REASON_END_OF_TURN, self._usage)

    def _read(self, choice: Message, piece: Piece) -> None:
        delta: Message = choice.get("delta", {})
        text = choice["text"] if "text" in choice else delta.get("content")
        if self._top is not None and (logprobs := choice.get("logprobs")):
            self._held.extend(_token_logprobs(position, self._top) for position in logprobs["content"])
        if text:
            piece.text += text
            # Those of text that is held back wait with it: it may be a stop sequence, which nobody shall see.
            piece.logprobs += self._held
            self._held = []
        for call in delta.get("tool_calls", ()):
            function: Message = call["function"]
            name, arguments = function.get("name", ""), function.get("arguments", "")
            self._tell(self._calls.feed(call["index"], call.get("id", ""), name, arguments), piece)
        if (reason := choice.get("finish_reason")) is not None:
            self._finish_reason = reason
            self._tell(self._calls.close(), piece)

    def _tell(self, deltas: Iterable[pb.ToolCallDelta], piece: Piece) -> None:
        for delta in deltas:
            self._called = self._called or delta.HasField("call")
            piece.calls.append(delta)


def failure(error: Message) -> MeshError:
    """The meaning of llama.cpp's `error` object: code, type, message, and the numbers of an over-long prompt."""
    said = str(error.get("message", ""))
    if error.get("type") == "exceed_context_size_error":
        return ContextExceeded(error["n_prompt_tokens"], error["n_ctx"])
    if error.get("code") == 400:
        return BackendRejected(f"llama.cpp rejects the request: {said}")
    return _lost(said)


def embedding_failure(error: Message, context_tokens: int) -> MeshError:
    """As `failure`. A text to be embedded has to fit into one batch, and llama.cpp says so in prose only."""
    if too_large := _TOO_LARGE.search(str(error.get("message", ""))):
        return ContextExceeded(int(too_large[1]), context_tokens)
    return failure(error)


def refusal(error: ValueError | RuntimeError) -> MeshError:
    """The meaning of an exception of xllamacpp: a ValueError is about the request."""
    return BackendRejected(f"llama.cpp rejects the request: {error}") if isinstance(error, ValueError) else _lost(error)


def _lost(cause: object) -> MeshError:
    log.error("llama.cpp failed: %s", cause)  # not for the caller: it may show paths
    return Internal("llama.cpp failed to answer")


def _token_logprobs(position: dict[str, Any], top: int) -> pb.TokenLogProbs:
    tokens = [position, *position["top_logprobs"][:top]]
    return pb.TokenLogProbs(logprobs_by_token={_text(token): token["logprob"] for token in tokens})


def _text(token: dict[str, Any]) -> str:
    r"""A token's text. Bytes that are no whole character are shown as `\xNN`, so that different ones stay different."""
    return bytes(token["bytes"]).decode(errors="backslashreplace")
