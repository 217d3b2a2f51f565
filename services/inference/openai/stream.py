"""Streams of the OpenAI dialect, from events to chunks of ours.

What was read together is sent together: all the text in one read is one chunk. At low load a read is one event, so
every token is sent as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from services.inference.openai import answer
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable
from stackmesh.inference.v1 import inference_service_pb2 as pb

Json = dict[str, Any]
Chunk_co = TypeVar("Chunk_co", covariant=True)

_Type = pb.ChatCompletionEventType
_Parse = pb.ToolCallParseStatus
_PROGRESS: Final = _Type.CHAT_COMPLETION_EVENT_TYPE_PROGRESS
_START: Final = pb.StreamChatCompletionResponse(
    event=pb.ChatCompletionEvent(event_type=_Type.CHAT_COMPLETION_EVENT_TYPE_START)
)


class Fold(Protocol, Generic[Chunk_co]):
    """Makes chunks of one stream's events."""

    @property
    def failure(self) -> Json | None:
        """The error event that ended the stream, if one did."""
        ...

    def start(self) -> Iterable[Chunk_co]:
        """What precedes the first chunk."""
        ...

    def feed(self, events: Sequence[Json]) -> Sequence[Chunk_co]:
        """What the events of one read have brought."""
        ...

    def end(self) -> Iterable[Chunk_co]:
        """What ends the stream. Raises BackendUnreachable if it ended early."""
        ...


class _Ending:
    """What a stream says about its own end, spread over its last events.

    A server that never sends usage leaves the prompt's tokens unknown (0); the completion's are then counted by
    events that brought something, which is one a token everywhere but under speculative decoding.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._finish_reason: str | None = None
        self._usage: Json | None = None
        self._counted = 0
        self.failure: Json | None = None

    def choice_of(self, event: Json) -> Json | None:
        """The event's choice, the rest of it noted. None for an event that has none: usage, or an error."""
        if counted := event.get("usage"):
            self._usage = counted
        if event.get("error") or event.get("object") == "error":
            self.failure = event
            return None
        choices = event.get("choices")
        if not choices:
            return None
        choice: Json = choices[0]
        if reason := choice.get("finish_reason"):
            self._finish_reason = reason
        return choice

    def count(self) -> None:
        self._counted += 1

    def stop_reason(self, *, called: bool = False) -> content_pb2.StopReason.ValueType:
        if self._finish_reason is None:
            raise BackendUnreachable(f"the stream of {self._where} ended early")
        return answer.stop_reason(self._finish_reason, self._where, called=called)

    def usage(self) -> pb.Usage:
        return answer.usage(self._usage) if self._usage else pb.Usage(completion_tokens=self._counted)


class CompletionFold:
    """The stream of /completions."""

    def __init__(self, where: str) -> None:
        self._ending = _Ending(where)
        self._logprobs: list[pb.TokenLogProbs] = []

    @property
    def failure(self) -> Json | None:
        return self._ending.failure

    def start(self) -> Iterable[pb.StreamCompletionResponse]:
        return ()

    def feed(self, events: Sequence[Json]) -> Sequence[pb.StreamCompletionResponse]:
        said: list[str] = []
        for event in events:
            choice = self._ending.choice_of(event)
            if choice is None:
                continue
            if text := choice.get("text"):
                said.append(text)
                self._ending.count()
            if found := choice.get("logprobs"):
                self._logprobs += answer.logprobs(found)
        if not said:
            return ()
        logprobs, self._logprobs = self._logprobs, []
        return (pb.StreamCompletionResponse(delta="".join(said), logprobs=logprobs),)

    def end(self) -> Iterable[pb.StreamCompletionResponse]:
        reason = self._ending.stop_reason()
        yield pb.StreamCompletionResponse(stop_reason=reason, usage=self._ending.usage(), logprobs=self._logprobs)


class ChatFold:
    """The stream of /chat/completions."""

    def __init__(self, where: str) -> None:
        self._ending = _Ending(where)
        self._said: list[str] = []
        self._logprobs: list[pb.TokenLogProbs] = []
        self._calls = _ToolCalls()

    @property
    def failure(self) -> Json | None:
        return self._ending.failure

    def start(self) -> Iterable[pb.StreamChatCompletionResponse]:
        return (_START,)

    def feed(self, events: Sequence[Json]) -> Sequence[pb.StreamChatCompletionResponse]:
        chunks: list[pb.StreamChatCompletionResponse] = []
        for event in events:
            choice = self._ending.choice_of(event)
            if choice is None:
                continue
            delta = choice["delta"]
            if text := delta.get("content"):
                chunks += map(_tool_chunk, self._calls.flush())
                self._said.append(text)
                self._ending.count()
            if found := choice.get("logprobs"):
                self._logprobs += answer.logprobs(found)
            if pieces := delta.get("tool_calls"):
                chunks += self._spoken()
                chunks += map(_tool_chunk, self._calls.feed(pieces))
                self._ending.count()
        chunks += self._spoken()
        chunks += map(_tool_chunk, self._calls.flush())
        return chunks

    def end(self) -> Iterable[pb.StreamChatCompletionResponse]:
        reason = self._ending.stop_reason(called=self._calls.seen)
        yield from map(_tool_chunk, self._calls.close())
        event = pb.ChatCompletionEvent(
            event_type=_Type.CHAT_COMPLETION_EVENT_TYPE_COMPLETE,
            stop_reason=reason,
            usage=self._ending.usage(),
            logprobs=self._logprobs,
        )
        yield pb.StreamChatCompletionResponse(event=event)

    def _spoken(self) -> Sequence[pb.StreamChatCompletionResponse]:
        """The text since the last chunk, if there is any."""
        if not self._said:
            return ()
        chunk = pb.StreamChatCompletionResponse()
        event = chunk.event  # filled in place: half the cost of handing it over
        event.event_type = _PROGRESS
        event.text = "".join(self._said)
        self._said.clear()
        if self._logprobs:
            event.logprobs.extend(self._logprobs)
            self._logprobs.clear()
        return (chunk,)


def _tool_chunk(delta: pb.ToolCallDelta) -> pb.StreamChatCompletionResponse:
    return pb.StreamChatCompletionResponse(event=pb.ChatCompletionEvent(event_type=_PROGRESS, tool_call=delta))


@dataclass(slots=True)
class _OpenCall:
    index: int
    call_id: str
    name: str = ""
    arguments: str = ""
    sent: int = 0
    """Characters of `arguments` that have been passed on."""


class _ToolCalls:
    """Tool calls as they are written, one after the other."""

    def __init__(self) -> None:
        self._open: _OpenCall | None = None
        self.seen = False

    def feed(self, pieces: Sequence[Json]) -> Iterator[pb.ToolCallDelta]:
        for piece in pieces:
            call = self._open
            call_id: str = piece.get("id") or ""
            index: int = piece.get("index") or 0
            if call is None or index != call.index or (call_id and call_id != call.call_id):
                yield from self.close()
                call = self._open = _OpenCall(index, call_id)
                self.seen = True
                yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_STARTED)
            function: Json = piece.get("function") or {}
            call.name = call.name or function.get("name") or ""
            call.arguments += function.get("arguments") or ""

    def flush(self) -> Iterator[pb.ToolCallDelta]:
        """What has been written and not yet passed on."""
        call = self._open
        if call is not None and call.sent < len(call.arguments):
            new = call.arguments[call.sent :]
            call.sent = len(call.arguments)
            yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS, content=new)

    def close(self) -> Iterator[pb.ToolCallDelta]:
        """The end of the open call, if there is one."""
        yield from self.flush()
        call, self._open = self._open, None
        if call is None:
            return
        whole = answer.tool_call(call.call_id, call.name, call.arguments)
        if whole is None:
            status = _Parse.TOOL_CALL_PARSE_STATUS_FAILURE
            yield pb.ToolCallDelta(parse_status=status, content=call.arguments)
        else:
            yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_SUCCESS, call=whole)
