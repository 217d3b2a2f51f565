"""Streams of the OpenAI dialect, from events to chunks of ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.inference import chunks
from services.inference.openai import answer
from services.inference.remote.streams import Json
from services.inference.tool_calls import ToolCalls
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable
from stackmesh.inference.v1 import inference_service_pb2 as pb


class _Ending:
    """What a stream says about its own end, spread over its last events.

    A server that never sends usage leaves the prompt's tokens unknown (0); the completion's are then counted by
    events that brought something, which is one a token everywhere but under speculative decoding.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._finish_reason: str | None = None
        self._usage: Json | None = None
        self.counted = 0
        """Events that brought something."""
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

    def stop_reason(self, *, called: bool = False) -> content_pb2.StopReason.ValueType:
        if self._finish_reason is None:
            raise BackendUnreachable(f"the stream of {self._where} ended early")
        return answer.stop_reason(self._finish_reason, self._where, called=called)

    def usage(self) -> pb.Usage:
        return answer.usage(self._usage) if self._usage else pb.Usage(completion_tokens=self.counted)


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
                self._ending.counted += 1
            if choice.get("logprobs") is not None:
                self._logprobs += answer.streamed_logprobs(choice, text or "")
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
        self._calls = ToolCalls()

    @property
    def failure(self) -> Json | None:
        return self._ending.failure

    def start(self) -> Iterable[pb.StreamChatCompletionResponse]:
        return (chunks.START,)

    def feed(self, events: Sequence[Json]) -> Sequence[pb.StreamChatCompletionResponse]:
        found: list[pb.StreamChatCompletionResponse] = []
        for event in events:
            choice = self._ending.choice_of(event)
            if choice is None:
                continue
            delta = choice["delta"]
            if text := delta.get("content"):
                if self._calls.seen:
                    found += map(chunks.called, self._calls.flush())
                self._said.append(text)
                self._ending.counted += 1
            if choice.get("logprobs") is not None:
                self._logprobs += answer.streamed_logprobs(choice, text or "")
            if pieces := delta.get("tool_calls"):
                found += self._spoken()
                for piece in pieces:
                    found += map(chunks.called, self._called(piece))
                self._ending.counted += 1
        found += self._spoken()
        found += map(chunks.called, self._calls.flush())
        return found

    def _called(self, piece: Json) -> Iterable[pb.ToolCallDelta]:
        function: Json = piece.get("function") or {}
        name, arguments = function.get("name") or "", function.get("arguments") or ""
        return self._calls.feed(piece.get("index") or 0, piece.get("id") or "", name, arguments)

    def end(self) -> Iterable[pb.StreamChatCompletionResponse]:
        reason = self._ending.stop_reason(called=self._calls.seen)
        yield from map(chunks.called, self._calls.close())
        yield chunks.complete(reason, self._ending.usage(), self._logprobs)

    def _spoken(self) -> Sequence[pb.StreamChatCompletionResponse]:
        """The text since the last chunk, if there is any."""
        if not self._said:
            return ()
        chunk = chunks.said("".join(self._said), self._logprobs)
        self._said.clear()
        self._logprobs.clear()
        return (chunk,)
