"""Events to chunks: what is joined, what is kept apart, how tool calls are told, cut anywhere."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.inference.bedrock.credentials import Account
from services.inference.bedrock.errors import failure
from services.inference.bedrock.framing import EventDecoder
from services.inference.bedrock.llama import LlamaFold
from services.inference.bedrock.stream import LAST, ConverseFold, told
from services.inference.remote.streams import Reading, opened
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable, Internal, MeshError, RateLimited
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.fakes import eventstream

Parse = pb.ToolCallParseStatus
Reason = content_pb2.StopReason
ACCOUNT = Account(None, "h:1")


def text(said: str, index: int = 0) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"text": said}}}


def call(index: int, call_id: str, name: str) -> dict[str, Any]:
    use = {"toolUse": {"toolUseId": call_id, "name": name}}
    return {"contentBlockStart": {"contentBlockIndex": index, "start": use}}


def arguments(index: int, piece: str) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": index, "delta": {"toolUse": {"input": piece}}}}


def stopped(index: int) -> dict[str, Any]:
    return {"contentBlockStop": {"contentBlockIndex": index}}


def end(reason: str) -> Sequence[dict[str, Any]]:
    usage = {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
    return [{"messageStop": {"stopReason": reason}}, {"metadata": {"usage": usage, "metrics": {"latencyMs": 1}}}]


CONVERSATION = [
    {"messageStart": {"role": "assistant"}},
    {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"reasoningContent": {"text": "hm"}}}},
    stopped(0),
    text("Grüße 😀", 1),
    text(" aus Łódź", 1),
    stopped(1),
    call(2, "tooluse_1", "weather"),
    arguments(2, ""),
    arguments(2, '{"city": "Ål'),
    arguments(2, 'esund"}'),
    stopped(2),
    call(3, "tooluse_2", "clock"),
    stopped(3),
    *end("tool_use"),
]


def written(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(eventstream.event(kind, body) for event in events for kind, body in event.items())


class Ranges:
    """A reader that gives a stream in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = iter([piece for piece in pieces if piece])

    async def readany(self) -> bytes:
        return next(self._pieces, b"")


@asynccontextmanager
async def reading(pieces: Sequence[bytes]) -> AsyncGenerator[Ranges]:
    yield Ranges(pieces)


async def chat(*pieces: bytes, stops: Sequence[str] = ()) -> list[pb.ChatCompletionEvent]:
    decoder, fold = EventDecoder(LAST), ConverseFold(stops, "h:1")
    how = Reading(decoder, fold, lambda event, _: failure(event, ACCOUNT))
    return [chunk.event async for chunk in await opened(reading(pieces), "h:1", None, how)]


async def completion(*pieces: bytes, stops: Sequence[str] = ()) -> list[pb.StreamCompletionResponse]:
    decoder = EventDecoder()
    how = Reading(decoder, LlamaFold(stops, decoder, "h:1"), lambda event, _: failure(event, ACCOUNT))
    return [message async for message in await opened(reading(pieces), "h:1", None, how)]


def joined(events: Sequence[pb.ChatCompletionEvent]) -> list[Any]:
    """The events, with texts and arguments that follow each other made one."""
    found: list[Any] = []
    for event in events:
        if event.text and found and isinstance(found[-1], str):
            found[-1] += event.text
        elif event.text:
            found.append(event.text)
        elif event.tool_call.parse_status == Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS:
            if isinstance(found[-1], list):
                found[-1][0] += event.tool_call.content
            else:
                found.append([event.tool_call.content])
        else:
            found.append(event)
    return found


def statuses(events: Sequence[pb.ChatCompletionEvent]) -> list[str]:
    return [
        Parse.Name(event.tool_call.parse_status).removeprefix("TOOL_CALL_PARSE_STATUS_")
        for event in events
        if event.HasField("tool_call")
    ]


# Cut anywhere


async def test_a_stream_cut_at_every_offset_gives_the_same_messages() -> None:
    raw = written(CONVERSATION)
    whole = joined(await chat(raw))
    assert whole[1] == "Grüße 😀 aus Łódź"
    assert [item[0] for item in whole if isinstance(item, list)] == ['{"city": "Ålesund"}']
    for at in range(1, len(raw)):
        assert joined(await chat(raw[:at], raw[at:])) == whole
    assert joined(await chat(*(raw[at : at + 1] for at in range(len(raw))))) == whole


async def test_a_stream_with_stop_sequences_cut_at_every_offset() -> None:
    raw = written([*CONVERSATION[:6], *end("stop_sequence")])
    for at in range(1, len(raw)):
        events = await chat(raw[:at], raw[at:], stops=["us Łó"])
        assert "".join(event.text for event in events) == "Grüße 😀 a"


async def test_a_completion_cut_at_every_offset_gives_the_same_messages() -> None:
    raw = written([piece("Grüße", prompt=5), piece(" 😀 aus"), piece(" Łódź"), piece("", reason="stop")])
    whole = await completion(raw)
    for at in range(1, len(raw)):
        messages = await completion(raw[:at], raw[at:])
        assert "".join(message.delta for message in messages) == "Grüße 😀 aus Łódź"
        assert messages[-1] == whole[-1]


async def test_the_comparison_sees_a_byte_that_is_lost() -> None:
    """The bug that the tests above hunt: what was left over from a read is dropped."""

    class Forgetful(EventDecoder):
        def feed(self, data: bytes) -> list[Any]:
            events = super().feed(data)
            self._pieces, self._size, self._needed = [], 0, 12
            return events

    raw = written(CONVERSATION)
    decoder = Forgetful()
    decoder.feed(raw[:50])
    with pytest.raises(Internal):
        decoder.feed(raw[50:])


# Together, and apart


async def test_the_text_of_one_read_is_one_chunk_and_that_of_two_is_two() -> None:
    start, first, second, last = await chat(
        written([text("a"), text("b")]), written([text("c")]), written(list(end("end_turn")))
    )
    assert start.event_type == pb.ChatCompletionEventType.CHAT_COMPLETION_EVENT_TYPE_START
    assert (first.text, second.text) == ("ab", "c")
    assert (last.stop_reason, last.usage) == (
        Reason.STOP_REASON_END_OF_TURN,
        pb.Usage(prompt_tokens=3, completion_tokens=4),
    )


async def test_calls_are_told_one_after_the_other() -> None:
    events = await chat(*(written([event]) for event in CONVERSATION))
    assert statuses(events) == ["STARTED", "IN_PROGRESS", "IN_PROGRESS", "SUCCESS", "STARTED", "SUCCESS"]
    calls = [event.tool_call.call for event in events if event.tool_call.HasField("call")]
    assert [(each.call_id, each.tool_name.custom, dict(each.arguments)) for each in calls] == [
        ("tooluse_1", "weather", {"city": "Ålesund"}),
        ("tooluse_2", "clock", {}),
    ]
    assert events[-1].stop_reason == Reason.STOP_REASON_END_OF_MESSAGE


async def test_a_call_that_is_cut_off_has_failed() -> None:
    events = await chat(written([call(0, "t", "weather"), arguments(0, '{"city": "Os'), *end("max_tokens")]))
    assert statuses(events) == ["STARTED", "IN_PROGRESS", "FAILURE"]
    assert events[-1].stop_reason == Reason.STOP_REASON_OUT_OF_TOKENS


async def test_what_looked_like_a_stop_sequence_and_was_none_is_said() -> None:
    events = await chat(written([text("one tw"), text("o thr"), *end("end_turn")]), stops=["three"])
    assert "".join(event.text for event in events) == "one two thr"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("end_turn", Reason.STOP_REASON_END_OF_TURN),
        ("stop_sequence", Reason.STOP_REASON_END_OF_TURN),
        ("guardrail_intervened", Reason.STOP_REASON_END_OF_TURN),
        ("content_filtered", Reason.STOP_REASON_END_OF_TURN),
        ("malformed_tool_use", Reason.STOP_REASON_END_OF_TURN),
        ("tool_use", Reason.STOP_REASON_END_OF_MESSAGE),
        ("max_tokens", Reason.STOP_REASON_OUT_OF_TOKENS),
        ("model_context_window_exceeded", Reason.STOP_REASON_OUT_OF_TOKENS),
    ],
)
async def test_why_it_ended(said: str, reason: int) -> None:
    assert (await chat(written(list(end(said)))))[-1].stop_reason == reason


async def test_output_that_bedrock_could_not_read_is_no_answer() -> None:
    with pytest.raises(Internal, match="could not read"):
        await chat(written([text("a"), *end("malformed_model_output")]))


# Ends that are none


@pytest.mark.parametrize("missing", [1, 2])
async def test_a_stream_that_ends_early(missing: int) -> None:
    with pytest.raises(BackendUnreachable, match="ended early"):
        await chat(written([text("a"), *end("end_turn")][:-missing]))


async def test_a_failure_after_text_comes_after_the_text() -> None:
    pieces = [written([text("Hel")]) + eventstream.exception("throttlingException", "slow down")]
    how = Reading(EventDecoder(LAST), ConverseFold((), "h:1"), lambda event, _: failure(event, ACCOUNT))
    chunks = await opened(reading(pieces), "h:1", None, how)
    assert [(await anext(chunks)).event.text for _ in range(2)] == ["", "Hel"]
    with pytest.raises(RateLimited, match="h:1 answered ThrottlingException: slow down"):
        await anext(chunks)


async def test_a_failure_before_anything_else_is_raised_by_the_await() -> None:
    with pytest.raises(MeshError, match="slow down"):
        await chat(eventstream.exception("modelStreamErrorException", "slow down"))


@pytest.mark.parametrize("event", [{"messageStop": {}}, {"contentBlockDelta": {}}, {"metadata": {"usage": None}}])
async def test_events_without_what_they_must_have(event: dict[str, Any]) -> None:
    with pytest.raises(Internal, match="form of its API"):
        await chat(written([event, *end("end_turn")][:1]))


# A whole answer as a stream


async def test_a_whole_answer_is_told_as_a_stream() -> None:
    whole = pb.ChatCompletionResponse(
        completion_message=content_pb2.CompletionMessage(
            content=content_pb2.Content(items=[content_pb2.ContentItem(text="Let me see.")]),
            stop_reason=Reason.STOP_REASON_END_OF_MESSAGE,
            tool_calls=[content_pb2.ToolCall(call_id="c", tool_name=content_pb2.ToolName(custom="weather"))],
        ),
        usage=pb.Usage(prompt_tokens=3, completion_tokens=4),
    )
    whole.completion_message.tool_calls[0].arguments.update({"days": 3})
    events = [chunk.event for chunk in told(whole)]
    assert statuses(events) == ["STARTED", "IN_PROGRESS", "SUCCESS"]
    assert joined(events)[1:-1] == ["Let me see.", events[2], ['{"days": 3}'], events[4]]
    assert (events[-1].stop_reason, events[-1].usage) == (Reason.STOP_REASON_END_OF_MESSAGE, whole.usage)


# Llama's own stream


def piece(said: str, *, prompt: int | None = None, count: int = 1, reason: str | None = None) -> dict[str, Any]:
    body = {
        "generation": said,
        "prompt_token_count": prompt,
        "generation_token_count": count,
        "stop_reason": reason,
    }
    return {"chunk": {"bytes": b64encode(json.dumps(body).encode()).decode(), "p": "abc"}}


async def test_a_completion_counts_as_it_goes() -> None:
    messages = await completion(
        written([piece("a", prompt=5), piece("b", count=2)]),
        written([piece("c", count=3), piece("", count=3, reason="length")]),
    )
    assert [message.delta for message in messages] == ["ab", "c", ""]
    assert messages[-1].usage == pb.Usage(prompt_tokens=5, completion_tokens=3)
    assert messages[-1].stop_reason == Reason.STOP_REASON_OUT_OF_TOKENS


async def test_nothing_is_read_after_a_stop_sequence() -> None:
    """As the model goes on to its end, which nobody is to wait for."""
    said = [piece("one tw", prompt=5), piece("o thr", count=2), piece("ee", count=3), piece(" four", count=4)]
    messages = await completion(*(written([each]) for each in said), stops=["two th"])
    assert "".join(message.delta for message in messages) == "one "
    assert messages[-1].stop_reason == Reason.STOP_REASON_END_OF_TURN
    assert messages[-1].usage == pb.Usage(prompt_tokens=5, completion_tokens=2)
