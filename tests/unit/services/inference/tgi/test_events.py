"""TGI's streams as chunks of ours, whatever it does in them and wherever they are cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from services.inference.openai.sse import EventDecoder
from services.inference.openai.stream import ChatFold, CompletionFold
from services.inference.tgi.events import Chat, Events, Generate
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import BackendUnreachable, Internal, Timeout
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.fakes.openai_model import DONE, data
from tests.fakes.tgi_server import chunk, event, token

Parse = pb.ToolCallParseStatus
Tongue = Generate | Chat

USED = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
COUNTED = data(chunk(choices=[], usage=USED))
USAGE = pb.Usage(prompt_tokens=11, completion_tokens=5)
COMMENT = b":\n\n"


def details(reason: str) -> dict[str, Any]:
    return {"finish_reason": reason, "generated_tokens": 5, "input_length": 11, "seed": None}


def called(arguments: str, name: str | None = None, **more: Any) -> bytes:
    call = {"index": 0, "id": "0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return event({"tool_calls": [call]}, **more)


def called_before_3_2(text: str, **more: Any) -> bytes:
    """The call is an object, its arguments all the text that the model writes."""
    call = {"index": 0, "id": "", "type": "function", "function": {"name": None, "arguments": text}}
    return event({"content": None, "tool_calls": call}, **more)


def said(*texts: str) -> list[bytes]:
    return [event({"content": text}) for text in texts]


def fold_of(tongue: Tongue) -> ChatFold | CompletionFold:
    return ChatFold("h:1") if isinstance(tongue, Chat) else CompletionFold("h:1")


def read(tongue: Tongue, pieces: Sequence[bytes], decoder: type[Events] = Events) -> list[Any]:
    """The chunks of a stream that comes in these pieces."""
    events, fold = decoder("h:1", tongue, silence=60), fold_of(tongue)
    chunks: list[Any] = []
    for piece in pieces:
        if found := events.feed(piece):
            chunks += fold.feed(found)
        if events.done:
            break
    assert fold.failure is None
    return [*chunks, *fold.end()]


def text_of(chunks: Sequence[Any]) -> str:
    return "".join(c.delta if isinstance(c, pb.StreamCompletionResponse) else c.event.text for c in chunks)


def end_of(chunks: Sequence[Any]) -> Any:
    last = chunks[-1]
    return last if isinstance(last, pb.StreamCompletionResponse) else last.event


def statuses(chunks: Sequence[Any]) -> list[str]:
    deltas = [c.event.tool_call for c in chunks if c.event.HasField("tool_call")]
    return [Parse.Name(delta.parse_status).removeprefix("TOOL_CALL_PARSE_STATUS_") for delta in deltas]


def call_of(chunks: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    [call] = [c.event.tool_call.call for c in chunks if c.event.tool_call.HasField("call")]
    assert call.call_id not in ("", "0")
    return call.tool_name.custom, dict(call.arguments)


# Completions


def completed(*stops: str, logprobs: bool = False) -> Generate:
    return Generate(stops, logprobs=logprobs)


def test_a_completion() -> None:
    chunks = read(completed(), [token("Hel"), token("lo"), token("</s>", special=True, details=details("eos_token"))])
    assert [c.delta for c in chunks] == ["Hel", "lo", ""]
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_END_OF_TURN, USAGE)


def test_what_comes_together_goes_together() -> None:
    chunks = read(completed(), [token("Hel") + token("lo") + token("!", details=details("length"))])
    assert [c.delta for c in chunks] == ["Hello!", ""]
    assert end_of(chunks).stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS


def test_probabilities_of_a_completion() -> None:
    top = [
        {"id": 1, "text": "Hel", "logprob": -0.1, "special": False},
        {"id": 2, "text": "x", "logprob": -2.0, "special": False},
    ]
    pieces = [token("Hel", top_tokens=top), token("</s>", special=True, details=details("eos_token"))]
    chunks = read(completed(logprobs=True), pieces)
    entries = [dict(entry.logprobs_by_token) for c in chunks for entry in c.logprobs]
    assert entries == [{"Hel": -0.1, "x": -2.0}, {"</s>": -0.1}]
    assert not any(c.logprobs for c in read(completed(), pieces))


@pytest.mark.parametrize("pieces", [["o", "nce", "STOP"], ["onceST", "OP"], ["once", "S", "T", "O", "P"]])
def test_a_stop_sequence_is_not_passed_on(pieces: list[str]) -> None:
    *others, last = pieces
    tongue = completed("STOP")
    chunks = read(tongue, [*map(token, others), token(last, details=details("stop_sequence"))])
    assert text_of(chunks) == "once"
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_END_OF_TURN, USAGE)
    assert not tongue.overran


def test_a_stop_sequence_that_max_tokens_ends_is_one() -> None:
    chunks = read(completed("STOP"), [token("once ST"), token("OP", details=details("length"))])
    assert (text_of(chunks), end_of(chunks).stop_reason) == ("once ", StopReason.STOP_REASON_END_OF_TURN)


def test_the_beginning_of_a_stop_sequence_that_never_comes_is_text() -> None:
    chunks = read(completed("STOP"), [token("once"), token(" ST", details=details("length"))])
    assert (text_of(chunks), end_of(chunks).stop_reason) == ("once ST", StopReason.STOP_REASON_OUT_OF_TOKENS)


def test_a_server_that_goes_on_after_a_stop_sequence_is_not_listened_to() -> None:
    tongue = completed("STOP")
    chunks = read(tongue, [token("once S"), token("TOP it") + token(" now"), token("!", details=details("length"))])
    assert (text_of(chunks), end_of(chunks).stop_reason) == ("once ", StopReason.STOP_REASON_END_OF_TURN)
    assert end_of(chunks).usage == pb.Usage(completion_tokens=2)
    assert tongue.overran


def test_a_completion_that_ends_early() -> None:
    with pytest.raises(BackendUnreachable, match="ended early"):
        read(completed("STOP"), [token("Hel"), token("lo")])


# Chats


def test_a_chat() -> None:
    chunks = read(Chat(()), [*said("Hel", "lo"), event({"content": ""}, finish_reason="stop"), COUNTED, DONE])
    assert text_of(chunks) == "Hello"
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_END_OF_TURN, USAGE)


def test_before_3_2_usage_comes_with_the_reason() -> None:
    last = data(chunk(choices=[{"index": 0, "delta": {"content": "lo"}, "finish_reason": "length"}], usage=USED))
    chunks = read(Chat(()), [*said("Hel"), last, DONE])
    assert text_of(chunks) == "Hello"
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_OUT_OF_TOKENS, USAGE)


def test_a_chat_stops() -> None:
    tongue = Chat(["STOP"])
    last = event({"content": "OP"}, finish_reason="stop_sequence")
    chunks = read(tongue, [*said("once ", "ST"), last, COUNTED, DONE])
    assert text_of(chunks) == "once "
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_END_OF_TURN, USAGE)
    assert not tongue.overran


def test_a_chat_that_goes_on_after_a_stop_sequence() -> None:
    tongue = Chat(["STOP"])
    chunks = read(
        tongue, [*said("once ST", "OP it", " now"), event({"content": ""}, finish_reason="stop"), COUNTED, DONE]
    )
    assert text_of(chunks) == "once "
    assert end_of(chunks).usage == pb.Usage(completion_tokens=2)
    assert tongue.overran


def test_probabilities_of_a_chat_stop_with_it() -> None:
    def with_entry(text: str, **more: Any) -> bytes:
        entry = {"token": text, "logprob": -0.5, "top_logprobs": []}
        return event({"content": text}, logprobs={"content": [entry]}, **more)

    pieces = [with_entry("on"), with_entry("ce S"), with_entry("T"), with_entry("OP", finish_reason="stop_sequence")]
    chunks = read(Chat(["STOP"]), [*pieces, COUNTED, DONE])
    assert [[dict(e.logprobs_by_token) for e in c.event.logprobs] for c in chunks] == [
        [{"on": -0.5}],
        [{"ce S": -0.5}],
        [],
    ]
    everything = read(Chat(()), [*pieces, COUNTED, DONE])
    assert sum(len(c.event.logprobs) for c in everything) == 4


# Calls

ARGUMENTS = {"city": "Oslo"}
SINCE_3_2 = [
    [called("{", "weather"), called(' "city":'), called(' "Oslo"'), called("}")],
    [called("{", "weather"), called(","), called(' "city": "Oslo"}')],
    [called("{", "weather"), called(' "city": "Oslo"}'), called("")],
]


@pytest.mark.parametrize("pieces", SINCE_3_2)
def test_a_call_ends_without_a_reason(pieces: list[bytes]) -> None:
    chunks = read(Chat(()), [*pieces, COUNTED, DONE])
    assert call_of(chunks) == ("weather", ARGUMENTS)
    assert statuses(chunks)[0] == "STARTED"
    assert statuses(chunks)[-1] == "SUCCESS"
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_END_OF_MESSAGE, USAGE)


def test_a_call_without_arguments_lacks_its_brace() -> None:
    chunks = read(Chat(()), [called("{", "clock"), event({"content": ""}, finish_reason="stop"), COUNTED, DONE])
    assert call_of(chunks) == ("clock", {})
    assert end_of(chunks).stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE


@pytest.mark.parametrize("last", ['lo"', "lo"])
def test_a_call_that_max_tokens_cut_is_none(last: str) -> None:
    pieces = [called("{", "weather"), called(' "city": "Os'), called(last, finish_reason="length")]
    chunks = read(Chat(()), [*pieces, COUNTED, DONE])
    assert statuses(chunks)[-1] == "FAILURE"
    assert end_of(chunks).stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS


def test_a_call_that_max_tokens_cut_before_its_name_was_whole_is_never_told() -> None:
    chunks = read(Chat(()), [COUNTED, DONE])
    assert (statuses(chunks), text_of(chunks)) == ([], "")
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (StopReason.STOP_REASON_OUT_OF_TOKENS, USAGE)


def test_a_call_whose_server_dies_is_none() -> None:
    with pytest.raises(BackendUnreachable, match="ended early"):
        read(Chat(()), [called("{", "weather"), called(' "city": "Oslo"}')])


def test_a_call_before_3_2() -> None:
    written = ['{"fun', 'ction": {"_na', 'me": "weather", "ci', 'ty": "Os', 'lo"}', "}"]
    pieces = [*map(called_before_3_2, written), called_before_3_2("<|eot_id|>", finish_reason="stop"), DONE]
    chunks = read(Chat(()), pieces)
    assert call_of(chunks) == ("weather", ARGUMENTS)
    assert end_of(chunks).stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE
    assert "IN_PROGRESS" in statuses(chunks)


def test_what_was_to_be_a_call_and_is_none_is_text() -> None:
    chunks = read(Chat(()), [called_before_3_2("I cannot"), called_before_3_2(" do it", finish_reason="stop"), DONE])
    assert (text_of(chunks), statuses(chunks)) == ("I cannot do it", [])
    assert end_of(chunks).stop_reason == StopReason.STOP_REASON_END_OF_TURN


def test_before_3_2_words_instead_of_a_call_end_without_anything() -> None:
    chunks = read(Chat(()), [*said("No", " tool"), DONE])
    assert text_of(chunks) == "No tool"
    assert (end_of(chunks).stop_reason, end_of(chunks).usage) == (
        StopReason.STOP_REASON_END_OF_TURN,
        pb.Usage(completion_tokens=2),
    )


def test_words_that_nothing_ends_are_no_answer() -> None:
    with pytest.raises(BackendUnreachable, match="ended early"):
        read(Chat(()), said("No", " tool"))


# Cuts

STREAMS: list[tuple[Callable[[], Tongue], bytes]] = [
    (
        lambda: completed("ST🚀P", logprobs=True),
        b"".join(map(token, ["naïve ", "日本", "S", "T", "x", "ST"]))
        + COMMENT
        + token("🚀P", details=details("stop_sequence")),
    ),
    (lambda: completed("S"), token("é") + token("xSx") + token("y", details=details("length"))),
    (
        lambda: Chat(["ST🚀P"]),
        b"".join(said("naïve ", "日本 ST", "🚀"))
        + COMMENT
        + event({"content": "P"}, finish_reason="stop_sequence")
        + COUNTED
        + DONE,
    ),
    (lambda: Chat(()), b"".join([*SINCE_3_2[1], COUNTED, DONE])),
]


def joined(tongue: Tongue, chunks: Sequence[Any]) -> Any:
    """What they say, however it was divided."""
    if isinstance(tongue, Generate):
        logprobs = [entry for c in chunks for entry in c.logprobs]
        return text_of(chunks), logprobs, end_of(chunks).stop_reason, end_of(chunks).usage, tongue.overran
    calls = [
        (c.event.tool_call.call.tool_name, c.event.tool_call.call.arguments)
        for c in chunks
        if c.event.tool_call.HasField("call")
    ]
    written = "".join(c.event.tool_call.content for c in chunks)
    return text_of(chunks), calls, written, end_of(chunks).stop_reason, end_of(chunks).usage


def check_cuts(tongue: Callable[[], Tongue], stream: bytes, decoder: type[Events]) -> None:
    first = tongue()
    expected = joined(first, read(first, [stream], decoder))
    for at in range(1, len(stream)):
        again = tongue()
        assert joined(again, read(again, [stream[:at], stream[at:]], decoder)) == expected
    again = tongue()
    assert joined(again, read(again, [stream[at : at + 1] for at in range(len(stream))], decoder)) == expected


@pytest.mark.parametrize(("tongue", "stream"), STREAMS)
def test_cuts_anywhere_change_nothing(tongue: Callable[[], Tongue], stream: bytes) -> None:
    check_cuts(tongue, stream, Events)


class Forgetful(Events):
    """The planted bug: what is left of a read is lost."""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        self._decoder = EventDecoder()
        return super().feed(data)


@pytest.mark.parametrize(("tongue", "stream"), STREAMS)
def test_the_check_of_cuts_sees_what_is_lost(tongue: Callable[[], Tongue], stream: bytes) -> None:
    with pytest.raises((AssertionError, Internal, BackendUnreachable)):
        check_cuts(tongue, stream, Forgetful)


# What goes wrong


@pytest.mark.parametrize("tongue", [Chat(()), completed()])
def test_an_error_ends_the_stream_and_is_passed_on_as_it_is(tongue: Tongue) -> None:
    events = Events("h:1", tongue, silence=60)
    failed = {"error": "Model is overloaded", "error_type": "overloaded"}
    assert events.feed(data(failed) + DONE) == [failed]
    assert events.done


@pytest.mark.parametrize(
    ("tongue", "garbage"),
    [
        (completed(), data({"no": "token"})),
        (completed(), data({"token": None})),
        (completed(), data({"token": {"text": "x"}})),
        (completed(), token("x", details={"finish_reason": "length"})),
        (Chat(()), data({"choices": [{"no": "delta"}]})),
        (Chat(()), data({"choices": [{"delta": {"tool_calls": [{"no": "function"}]}}]})),
        (Chat(()), data({"choices": [{"delta": {"tool_calls": "text"}}]})),
        (Chat(()), data({"choices": 7})),
        (Chat(()), b"data: {\n\n"),
    ],
)
def test_what_makes_no_sense_is_internal(tongue: Tongue, garbage: bytes) -> None:
    with pytest.raises(Internal):
        Events("h:1", tongue, silence=60).feed(garbage)


def test_events_that_say_nothing_are_no_end() -> None:
    with pytest.raises(BackendUnreachable):
        read(Chat(()), [data({"a": 1}), data({"choices": []})])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_comments_keep_the_connection_but_are_no_answer() -> None:
    clock = Clock()
    events = Events("h:1", Chat(()), silence=60, clock=clock)
    for clock.now in (15, 30, 45, 60):
        assert events.feed(COMMENT) == []
    events.feed(*said("Hel"))
    for clock.now in (75, 90, 105, 120):
        assert events.feed(COMMENT) == []
    clock.now = 121
    with pytest.raises(Timeout, match="h:1 was silent for 60 s"):
        events.feed(COMMENT)


def test_a_long_event_in_many_reads_is_no_silence() -> None:
    """Whoever sends bytes of an event is not silent; the end of a connection's patience is the transport's affair."""
    clock = Clock()
    events = Events("h:1", Chat(()), silence=60, clock=clock)
    piece = event({"content": "x" * 100})
    for at in range(0, len(piece), 10):
        clock.now += 50
        events.feed(piece[at : at + 10])
