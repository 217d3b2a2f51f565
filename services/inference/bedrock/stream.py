"""The event stream of ConverseStream, from events to chunks of ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from services.inference import chunks
from services.inference.bedrock import answer
from services.inference.remote.streams import Json
from services.inference.stops import StopFilter
from services.inference.tool_calls import ToolCalls
from services.inference.values import to_json
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable
from stackmesh.inference.v1 import inference_service_pb2 as pb

_Parse = pb.ToolCallParseStatus
LAST: Final = "metadata"
"""The event after which nothing comes."""


class ConverseFold:
    """messageStart; for each block of content contentBlockStart (of tool calls only), contentBlockDelta,
    contentBlockStop; messageStop; metadata.
    """

    def __init__(self, stops: Sequence[str], where: str) -> None:
        self._where = where
        self._stops = StopFilter(stops)
        self._said: list[str] = []
        self._calls = ToolCalls()
        self._stop_reason: str | None = None
        self._usage: pb.Usage | None = None
        self.failure: Json | None = None

    def start(self) -> Iterable[chunks.Chunk]:
        return (chunks.START,)

    def feed(self, events: Sequence[Json]) -> Sequence[chunks.Chunk]:
        found: list[chunks.Chunk] = []
        for event in events:
            for kind, body in event.items():
                match kind:
                    case "contentBlockDelta":
                        found += self._delta(body)
                    case "contentBlockStart":
                        found += self._block(body)
                    case "contentBlockStop":
                        found += map(chunks.called, self._calls.close())
                    case "messageStop":
                        self._stop_reason = body["stopReason"]
                    case "metadata":
                        self._usage = answer.usage(body["usage"])
                    case "failure":
                        self.failure = event
                    case _:
                        pass
        found += self._spoken()
        found += map(chunks.called, self._calls.flush())
        return found

    def _delta(self, body: Json) -> Iterable[chunks.Chunk]:
        delta: Json = body["delta"]
        if text := delta.get("text"):
            yield from map(chunks.called, self._calls.flush())
            self._said.append(text)
        elif used := delta.get("toolUse"):
            yield from self._spoken()
            yield from map(chunks.called, self._calls.feed(body["contentBlockIndex"], "", "", used["input"]))

    def _block(self, body: Json) -> Iterable[chunks.Chunk]:
        if used := body["start"].get("toolUse"):
            yield from self._spoken()
            index = body["contentBlockIndex"]
            yield from map(chunks.called, self._calls.feed(index, used["toolUseId"], used["name"], ""))

    def _spoken(self) -> Sequence[chunks.Chunk]:
        """The text since the last chunk, if there is any."""
        if not self._said:
            return ()
        text = self._stops.feed("".join(self._said))
        self._said.clear()
        return (chunks.said(text),) if text else ()

    def end(self) -> Iterable[chunks.Chunk]:
        if self._stop_reason is None or self._usage is None:
            raise BackendUnreachable(f"the stream of {self._where} ended early")
        if held := self._stops.rest():
            yield chunks.said(held)
        yield from map(chunks.called, self._calls.close())
        yield chunks.complete(answer.stop_reason(self._stop_reason, self._where), self._usage)


def told(whole: pb.ChatCompletionResponse) -> Iterable[chunks.Chunk]:
    """A whole answer as a stream, of a model that does not stream."""
    said = whole.completion_message
    yield chunks.START
    for item in said.content.items:
        yield chunks.said(item.text)
    for call in said.tool_calls:
        yield from map(chunks.called, _told(call))
    yield chunks.complete(said.stop_reason, whole.usage)


def _told(call: content_pb2.ToolCall) -> Iterable[pb.ToolCallDelta]:
    yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_STARTED)
    written = json.dumps(to_json(call.arguments), ensure_ascii=False)
    yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS, content=written)
    yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_SUCCESS, call=call)
