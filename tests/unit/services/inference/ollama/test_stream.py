"""Streams of Ollama: joined, cut anywhere, ended, broken off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.inference.ollama import stream
from services.inference.ollama.stream import ChatFold, CompletionFold
from services.inference.remote.streams import Decoder, Json
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import BackendUnreachable, Internal
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.fakes.ollama_words import DONE, USED, line, said

Parse = pb.ToolCallParseStatus


def entry(token: str, *others: str) -> Json:
    top = [{"token": each, "logprob": -1.0 - n} for n, each in enumerate((token, *others))]
    return {"token": token, "logprob": -1.0, "bytes": [], "top_logprobs": top}


def call(city: str, **more: Any) -> Json:
    return {"function": {"index": 0, "name": "weather", "arguments": {"city": city}}, **more}


CHAT = b"".join(
    [
        said("", message={"thinking": "Let me see"}, logprobs=[entry("Let me see")]),
        said("naïve ", logprobs=[entry("naïve", "é")]),
        said("🚀🎉", logprobs=[entry("🚀"), entry("🎉")]),
        said("", message={"tool_calls": [call("Zürich"), call("Oslo", id="call_x1")]}),
        said("日本", logprobs=[entry("日本")]),
        said(done=True, done_reason="stop", **USED),
    ]
)
TEXT = b"".join(
    [
        line({"response": "日本 ", "done": False, "logprobs": [entry("日本")]}),
        line({"response": "🚀", "done": False, "logprobs": [entry("🚀", "x")]}),
        line({"response": "", "done": True, "done_reason": "length", **USED}),
    ]
)


@dataclass
class Told:
    """What a stream comes to, however its chunks were cut."""

    text: str = ""
    logprobs: list[dict[str, float]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    stop_reason: int = 0
    usage: pb.Usage = field(default_factory=pb.Usage)
    chunks: int = 0


def read(decoder: Decoder, pieces: Iterable[bytes]) -> Told:
    told, fold = Told(), ChatFold("host")
    chunks = [chunk.event for piece in pieces for chunk in fold.feed(decoder.feed(piece))]
    for event in [*chunks, *(chunk.event for chunk in fold.end())]:
        told.chunks += 1
        told.text += event.text
        told.logprobs += [dict(each.logprobs_by_token) for each in event.logprobs]
        if event.HasField("tool_call"):
            delta = event.tool_call
            whole = delta.call.arguments["city"] if delta.HasField("call") else delta.content
            told.calls.append(f"{Parse.Name(delta.parse_status)[23:]} {whole}")
        told.stop_reason, told.usage = event.stop_reason, event.usage
    return told


def read_text(decoder: Decoder, pieces: Iterable[bytes]) -> Told:
    told, fold = Told(), CompletionFold("host")
    chunks = [chunk for piece in pieces for chunk in fold.feed(decoder.feed(piece))]
    for chunk in [*chunks, *fold.end()]:
        told.chunks += 1
        told.text += chunk.delta
        told.logprobs += [dict(each.logprobs_by_token) for each in chunk.logprobs]
        told.stop_reason, told.usage = chunk.stop_reason, chunk.usage
    return told


WHOLE = Told(
    text="naïve 🚀🎉日本",
    logprobs=[
        {"Let me see": -1.0},
        {"naïve": -1.0, "é": -2.0},
        {"🚀": -1.0},
        {"🎉": -1.0},
        {"日本": -1.0},
    ],
    calls=[
        *("STARTED ", 'IN_PROGRESS {"city": "Zürich"}', "SUCCESS Zürich"),
        *("STARTED ", 'IN_PROGRESS {"city": "Oslo"}', "SUCCESS Oslo"),
    ],
    stop_reason=StopReason.STOP_REASON_END_OF_MESSAGE,
    usage=pb.Usage(prompt_tokens=11, completion_tokens=3),
    chunks=9,
)


def test_what_is_read_together_is_sent_together() -> None:
    assert read(stream.decoder(), [CHAT]) == WHOLE


def cuts(whole: bytes) -> Iterable[Sequence[bytes]]:
    """At every offset; and into pieces of every size."""
    yield from ((whole[:at], whole[at:]) for at in range(len(whole) + 1))
    yield from ([whole[at : at + size] for at in range(0, len(whole), size)] for size in range(1, len(whole)))


def check_cuts(decoder: Callable[[], Decoder]) -> None:
    for pieces in cuts(CHAT):
        told = read(decoder(), pieces)
        told.chunks = WHOLE.chunks
        assert told == WHOLE
    for pieces in cuts(TEXT):
        told = read_text(decoder(), pieces)
        assert (told.text, told.logprobs) == ("日本 🚀", [{"日本": -1.0}, {"🚀": -1.0, "x": -2.0}])
        assert told.stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS


def test_cuts_at_every_offset_change_nothing() -> None:
    check_cuts(stream.decoder)


class Forgetful:
    """The bug: what is left of a read is taken for a line."""

    def __init__(self) -> None:
        self._decoder = stream.decoder()

    @property
    def done(self) -> bool:
        return self._decoder.done

    def feed(self, data: bytes) -> list[Json]:
        return self._decoder.feed(data if data.endswith(b"\n") else data + b"\n")


class Hasty:
    """The bug: each read is text by itself."""

    def __init__(self) -> None:
        self._decoder = stream.decoder()

    @property
    def done(self) -> bool:
        return self._decoder.done

    def feed(self, data: bytes) -> list[Json]:
        return self._decoder.feed(data.decode(errors="replace").encode())


@pytest.mark.parametrize("decoder", [Forgetful, Hasty])
def test_the_check_notices_bytes_that_are_lost(decoder: Callable[[], Decoder]) -> None:
    with pytest.raises((AssertionError, Internal)):
        check_cuts(decoder)


def test_each_token_goes_as_it_comes() -> None:
    lines = CHAT.splitlines(keepends=True)
    assert [len(ChatFold("host").feed(stream.decoder().feed(each))) for each in lines] == [0, 1, 1, 6, 1, 0]


def test_calls_may_come_with_the_end_and_without_ids() -> None:
    """As from v0.30 on for models with a chat template of their own; ids came with v0.12.10."""
    calls = [{"function": {"name": name, "arguments": {"n": 1}}} for name in ("weather", "clock")]
    events = stream.decoder().feed(said("so", message={"tool_calls": calls}, done=True, done_reason="stop", **USED))
    fold = ChatFold("host")
    text, *deltas = [chunk.event for chunk in fold.feed(events)]
    [complete] = [chunk.event for chunk in fold.end()]
    assert text.text == "so"
    whole = [delta.tool_call.call for delta in deltas if delta.tool_call.HasField("call")]
    assert [each.tool_name.custom for each in whole] == ["weather", "clock"]
    assert len({each.call_id for each in whole if each.call_id}) == 2
    assert complete.stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE


@pytest.mark.parametrize("arguments", ["Oslo", ["Oslo"], 7])
def test_a_call_whose_arguments_are_no_object_has_failed(arguments: Any) -> None:
    called = {"function": {"name": "weather", "arguments": arguments}}
    fold = ChatFold("host")
    chunks = fold.feed(stream.decoder().feed(said("", message={"tool_calls": [called]}) + DONE))
    assert chunks[-1].event.tool_call.parse_status == Parse.TOOL_CALL_PARSE_STATUS_FAILURE


def test_the_last_object_of_an_old_version_has_no_message_and_no_reason() -> None:
    fold = ChatFold("host")
    fold.feed(stream.decoder().feed(said("Hi") + line({"model": "m", "done": True, "eval_count": 2})))
    [complete] = [chunk.event for chunk in fold.end()]
    assert complete.stop_reason == StopReason.STOP_REASON_END_OF_TURN
    assert complete.usage == pb.Usage(completion_tokens=2)


@pytest.mark.parametrize(
    "pieces",
    [[], [said("Hi")], [said("Hi"), DONE[:-1]], [said("Hi", done=True, done_reason="load")]],
)
def test_a_stream_without_a_good_end_ended_early(pieces: Sequence[bytes]) -> None:
    with pytest.raises(BackendUnreachable, match="host"):
        read(stream.decoder(), pieces)


def test_an_error_ends_it_and_what_was_said_before_it_stays() -> None:
    decoder, fold = stream.decoder(), ChatFold("host")
    [chunk] = fold.feed(decoder.feed(said("half ") + said("an") + line({"error": "broke down"}) + said("never")))
    assert (chunk.event.text, fold.failure, decoder.done) == ("half an", {"error": "broke down"}, True)
    text = CompletionFold("host")
    [piece] = text.feed([{"response": "half", "done": False}, {"error": "x"}])
    assert (piece.delta, text.failure) == ("half", {"error": "x"})


def test_nothing_is_waited_for_after_the_end() -> None:
    decoder = stream.decoder()
    decoder.feed(said("Hi"))
    assert not decoder.done
    decoder.feed(DONE)
    assert decoder.done


@pytest.mark.parametrize("event", [{}, {"done": False}, {"message": {"content": "x"}}, {"done": False, "message": 7}])
def test_what_lacks_what_it_must_have_is_noticed(event: Json) -> None:
    with pytest.raises((KeyError, AttributeError)):
        ChatFold("host").feed([event])
