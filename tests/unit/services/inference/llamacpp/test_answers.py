from __future__ import annotations

import logging

import pytest

from services.inference.llamacpp.answers import Answer, embedding_failure, failure, refusal
from stackmesh.common.v1.content_pb2 import StopReason
from stackmesh.errors import BackendRejected, ContextExceeded, Internal, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
TOO_LARGE = "input (301 tokens) is too large to process. increase the physical batch size (current batch size: 16)"


def token(text: bytes, logprob: float, top=()) -> dict:
    tops = [{"bytes": list(t), "logprob": p} for t, p in top]
    return {"bytes": list(text), "logprob": logprob, "top_logprobs": tops}


def chunk(text: str | None, finish: str | None = None, *logprobs: dict) -> dict:
    return {"choices": [{"text": text, "finish_reason": finish, "logprobs": {"content": list(logprobs)}}]}


def test_chat_and_completion_messages_are_joined() -> None:
    answer = Answer(None)
    chat = {"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]}
    piece = answer.read([chat, chunk("ab"), chunk("c"), chunk("", "length"), {"choices": [], "usage": USAGE}])
    assert piece.text == "abc"
    assert answer.end().stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
    assert answer.end().usage.completion_tokens == 2


@pytest.mark.parametrize("messages", [[], [chunk("a")], [chunk("a", "stop")], [{"choices": [], "usage": USAGE}]])
def test_an_answer_without_its_end_is_internal(messages: list[dict]) -> None:
    answer = Answer(None)
    answer.read(messages)
    with pytest.raises(Internal):
        answer.end()


def test_logprobs_of_held_text_wait_for_it_and_are_lost_with_it() -> None:
    answer = Answer(0)
    assert answer.read([chunk("", None, token(b"7", -1.0))]).logprobs == []
    assert len(answer.read([chunk("7!", None, token(b"!", -2.0))]).logprobs) == 2
    assert answer.read([chunk("", None, token(b"8", -1.0)), chunk("", "stop")]).logprobs == []


def test_logprobs_show_the_chosen_token_and_the_likeliest() -> None:
    position = token(b"a", -2.0, [(b"b", -1.0), (b"\xf0\x9f", -3.0)])
    (chosen,) = Answer(0).read([chunk("a", None, position)]).logprobs
    assert dict(chosen.logprobs_by_token) == {"a": -2.0}
    (both,) = Answer(2).read([chunk("a", None, position)]).logprobs
    assert dict(both.logprobs_by_token) == {"a": -2.0, "b": -1.0, "\\xf0\\x9f": -3.0}
    assert Answer(None).read([chunk("a", None, position)]).logprobs == []


def call(index: int, arguments: str, name: str | None = None) -> dict:
    """A piece of a tool call, as llama.cpp sends it: id and name with the first."""
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    begun = {} if name is None else {"id": f"id-{index}", "type": "function"}
    piece = {"index": index, "function": function, **begun}
    return {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [piece]}}]}


def ending(reason: str) -> list[dict]:
    return [{"choices": [{"index": 0, "finish_reason": reason, "delta": {}}]}, {"choices": [], "usage": USAGE}]


def said(text: str) -> dict:
    return {"choices": [{"index": 0, "finish_reason": None, "delta": {"content": text}}]}


TWO = [
    *(said("Well"), said(".")),
    *(call(0, "{", "weather"), call(0, '"city": "Os'), call(0, 'lo"}')),
    *(call(1, "{", "clock"), call(1, "}")),
    *ending("tool_calls"),
]


def test_calls_are_told_the_same_way_however_their_messages_arrive() -> None:
    for cut in range(len(TWO) + 1):
        answer = Answer()
        pieces = [answer.read(TWO[:cut]), answer.read(TWO[cut:])]
        assert "".join(piece.text for piece in pieces) == "Well."
        deltas = [delta for piece in pieces for delta in piece.calls]
        whole = [delta.call for delta in deltas if delta.HasField("call")]
        assert [(each.call_id, each.tool_name.custom, dict(each.arguments)) for each in whole] == [
            ("id-0", "weather", {"city": "Oslo"}),
            ("id-1", "clock", {}),
        ]
        assert "".join(delta.content for delta in deltas) == '{"city": "Oslo"}{}'
        assert answer.end().stop_reason == StopReason.STOP_REASON_END_OF_MESSAGE


def test_a_call_that_is_cut_off_failed() -> None:
    answer = Answer(must_call=True)
    deltas = answer.read([call(0, "{", "weather"), call(0, '"city": "Os'), *ending("length")]).calls
    assert deltas[-1].parse_status == pb.ToolCallParseStatus.TOOL_CALL_PARSE_STATUS_FAILURE
    assert deltas[-1].content == '{"city": "Os'
    assert answer.end().stop_reason == StopReason.STOP_REASON_OUT_OF_TOKENS
    stopped = Answer(must_call=True)
    stopped.read([call(0, "{", "weather"), *ending("tool_calls")])
    assert stopped.end().stop_reason == StopReason.STOP_REASON_END_OF_TURN, "nobody waits for a result"


def test_an_answer_without_the_call_that_had_to_be_is_no_answer() -> None:
    for must_call, reason in ((True, "length"), (False, "stop")):
        fine = Answer(must_call=must_call)
        fine.read([said("Well"), *ending(reason)])
        fine.end()
    answer = Answer(must_call=True)
    answer.read([said("Well"), *ending("stop")])
    with pytest.raises(Unsupported, match="tool_choice"):
        answer.end()


def test_errors_keep_their_meaning() -> None:
    over = failure({"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 5})
    assert isinstance(over, ContextExceeded)
    assert over.metadata == {"prompt_tokens": "9", "context_tokens": "5"}
    assert isinstance(failure({"code": 400, "message": "failed to parse grammar"}), BackendRejected)
    too_large = embedding_failure({"code": 500, "message": TOO_LARGE}, 16)
    assert isinstance(too_large, ContextExceeded)
    assert too_large.metadata == {"prompt_tokens": "301", "context_tokens": "16"}
    assert isinstance(refusal(ValueError("no such role")), BackendRejected)


def test_what_nobody_expected_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for error in (failure({"code": 500, "message": "/secret/path"}), refusal(RuntimeError("/secret/path"))):
            assert isinstance(error, Internal)
            assert "secret" not in error.message
    assert caplog.text.count("/secret/path") == 2
