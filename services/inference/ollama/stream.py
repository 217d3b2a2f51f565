"""Streams of Ollama's API, from objects to chunks of ours. The last object says why it ended and what was used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.inference import chunks
from services.inference.ollama import answer
from services.inference.remote.lines import ObjectDecoder
from services.inference.remote.streams import Json
from services.inference.tool_calls import ToolCalls
from stackmesh.errors import BackendUnreachable
from stackmesh.inference.v1 import inference_service_pb2 as pb


def decoder() -> ObjectDecoder:
    """Of a stream of /api/chat or /api/generate."""
    return ObjectDecoder(lambda event: event.get("done") or "error" in event)


class _Ending:
    """How a stream ended."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last: Json | None = None
        self.failure: Json | None = None

    def goes_on(self, event: Json) -> bool:
        """Whether the event is one that says something, be it the last."""
        if "error" in event:
            self.failure = event
            return False
        if event["done"]:
            self._last = event
        return True

    def last(self) -> Json:
        if self._last is None:
            raise BackendUnreachable(f"the stream of {self._where} ended early")
        return self._last


class CompletionFold:
    """The stream of /api/generate."""

    def __init__(self, where: str) -> None:
        self._where = where
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
            if not self._ending.goes_on(event):
                break
            said.append(event["response"])
            self._logprobs += answer.logprobs(event)
        if not (text := "".join(said)):
            return ()
        logprobs, self._logprobs = self._logprobs, []
        return (pb.StreamCompletionResponse(delta=text, logprobs=logprobs),)

    def end(self) -> Iterable[pb.StreamCompletionResponse]:
        last = self._ending.last()
        reason = answer.stop_reason(last, self._where)
        yield pb.StreamCompletionResponse(stop_reason=reason, usage=answer.usage(last), logprobs=self._logprobs)


class ChatFold:
    """The stream of /api/chat. A tool call comes whole, in one event."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._ending = _Ending(where)
        self._said: list[str] = []
        self._logprobs: list[pb.TokenLogProbs] = []
        self._calls = ToolCalls()
        self._count = 0

    @property
    def failure(self) -> Json | None:
        return self._ending.failure

    def start(self) -> Iterable[pb.StreamChatCompletionResponse]:
        return (chunks.START,)

    def feed(self, events: Sequence[Json]) -> Sequence[pb.StreamChatCompletionResponse]:
        found: list[pb.StreamChatCompletionResponse] = []
        for event in events:
            if not self._ending.goes_on(event):
                break
            message: Json = event.get("message") or {} if event["done"] else event["message"]
            if text := message.get("content"):
                self._said.append(text)
            self._logprobs += answer.logprobs(event)
            for call in message.get("tool_calls") or ():
                found += self._spoken()
                found += map(chunks.called, self._called(call))
        found += self._spoken()
        return found

    def _called(self, call: Json) -> Iterable[pb.ToolCallDelta]:
        self._count += 1  # Ollama's own `index` is 0 for all of them, by some of its parsers
        yield from self._calls.feed(self._count, *answer.written(call))
        yield from self._calls.close()

    def _spoken(self) -> Sequence[pb.StreamChatCompletionResponse]:
        """The text since the last chunk, if there is any."""
        if not self._said:
            return ()
        chunk = chunks.said("".join(self._said), self._logprobs)
        self._said.clear()
        self._logprobs.clear()
        return (chunk,)

    def end(self) -> Iterable[pb.StreamChatCompletionResponse]:
        last = self._ending.last()
        reason = answer.stop_reason(last, self._where, called=self._calls.seen)
        yield chunks.complete(reason, answer.usage(last), self._logprobs)
