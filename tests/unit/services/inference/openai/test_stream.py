"""Events to chunks: what is joined, what is kept apart, how tool calls are told."""

import json
from typing import Any

import pytest

from services.inference.openai.answer import chat, completion, embeddings
from services.inference.openai.stream import ChatFold, CompletionFold
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import BackendUnreachable, Internal
from stackmesh.inference.v1 import inference_service_pb2 as pb

Parse = pb.ToolCallParseStatus
Reason = content_pb2.StopReason
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}}


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def arguments(text: str, index: int = 0) -> dict[str, Any]:
    return delta(tool_calls=[{"index": index, "function": {"arguments": text}}])


def finish(reason: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def events(fold: ChatFold, *reads: list[dict[str, Any]]) -> list[pb.ChatCompletionEvent]:
    return [chunk.event for read in reads for chunk in fold.feed(read)]


def statuses(told: list[pb.ChatCompletionEvent]) -> list[str]:
    return [Parse.Name(e.tool_call.parse_status).removeprefix("TOOL_CALL_PARSE_STATUS_") for e in told]


def end(fold: ChatFold) -> pb.ChatCompletionEvent:
    *_, last = fold.end()
    return last.event


def test_the_text_of_one_read_is_one_chunk() -> None:
    fold = ChatFold("h:1")
    first, second = events(
        fold, [delta(content="a"), delta(content="b")], [delta(role="assistant")], [delta(content="c")]
    )
    assert (first.text, second.text) == ("ab", "c")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("stop", Reason.STOP_REASON_END_OF_TURN),
        ("eos_token", Reason.STOP_REASON_END_OF_TURN),
        ("length", Reason.STOP_REASON_OUT_OF_TOKENS),
        ("tool_calls", Reason.STOP_REASON_END_OF_MESSAGE),
        ("function_call", Reason.STOP_REASON_END_OF_MESSAGE),
    ],
)
def test_why_it_ended(said: str, reason: int) -> None:
    fold = ChatFold("h:1")
    assert events(fold, [finish(said)]) == []
    assert end(fold).stop_reason == reason


@pytest.mark.parametrize("last", [[], [finish("abort")], [finish("error")]])
def test_an_end_that_is_none_is_no_completion(last: list[dict[str, Any]]) -> None:
    fold = ChatFold("h:1")
    events(fold, [delta(content="half an ans")], last)
    with pytest.raises(BackendUnreachable, match=r"h:1 (ended early|gave up)|stream of h:1 ended early"):
        list(fold.end())


def test_usage_is_the_servers_or_counted_by_events() -> None:
    fold = ChatFold("h:1")
    events(fold, [delta(content="a"), delta(content="b"), finish("stop")])
    assert end(fold).usage == pb.Usage(completion_tokens=2)
    events(fold, [{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}])
    assert end(fold).usage == pb.Usage(prompt_tokens=5, completion_tokens=9)


def test_a_tool_call_is_told_as_it_is_written() -> None:
    fold = ChatFold("h:1")
    told = events(
        fold,
        [delta(content="I ask. ")],
        [delta(tool_calls=[CALL])],
        [arguments('{"ci'), arguments('ty": ')],
        [arguments('"Oslo", "days": 3}')],
        [finish("tool_calls")],
    )
    assert told[0].text == "I ask. "
    assert statuses(told[1:]) == ["STARTED", "IN_PROGRESS", "IN_PROGRESS"]
    assert told[2].tool_call.content == '{"city": '
    *closing, complete = [chunk.event for chunk in fold.end()]
    assert statuses(closing) == ["SUCCESS"]
    call = closing[0].tool_call.call
    assert (call.call_id, call.tool_name.custom) == ("c1", "weather")
    assert dict(call.arguments) == {"city": "Oslo", "days": 3}
    assert complete.stop_reason == Reason.STOP_REASON_END_OF_MESSAGE


def test_calls_come_one_after_the_other() -> None:
    fold = ChatFold("h:1")
    second = {"index": 1, "id": "c2", "function": {"name": "brave_search", "arguments": '{"query": "x"}'}}
    told = events(fold, [delta(tool_calls=[CALL]), arguments("{}"), delta(tool_calls=[second]), delta(content="so")])
    assert statuses(told[:5]) == ["STARTED", "IN_PROGRESS", "SUCCESS", "STARTED", "IN_PROGRESS"]
    assert told[5].text == "so"
    assert events(fold, [finish("stop")]) == []
    *closing, complete = [chunk.event for chunk in fold.end()]
    assert statuses(closing) == ["SUCCESS"]
    assert complete.stop_reason == Reason.STOP_REASON_END_OF_MESSAGE  # some servers say `stop` after a forced call


def test_calls_without_an_index_are_told_apart_by_their_ids() -> None:
    fold = ChatFold("h:1")
    calls = [{"id": f"c{n}", "function": {"name": "f", "arguments": "{}"}} for n in (1, 2)]
    told = events(fold, [delta(tool_calls=calls)])
    assert statuses(told) == ["STARTED", "IN_PROGRESS", "SUCCESS", "STARTED", "IN_PROGRESS"]


def test_a_builtin_tool_is_known_by_its_name() -> None:
    answered = {"choices": [{"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [
        {"id": "", "function": {"name": "brave_search", "arguments": '{"query": "x"}'}},
    ]}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}  # fmt: skip
    said = chat(answered, "h:1").completion_message
    assert said.tool_calls[0].tool_name.builtin == content_pb2.BuiltinTool.BUILTIN_TOOL_BRAVE_SEARCH
    assert said.tool_calls[0].call_id  # made up: the server gave none
    assert not said.HasField("content")


@pytest.mark.parametrize("text", ['{"city": ', "[1]", "Oslo", '{"x": NaN}'])
def test_what_is_no_call_is_told_whole(text: str) -> None:
    fold = ChatFold("h:1")
    events(fold, [delta(tool_calls=[CALL]), arguments(text), finish("tool_calls")])
    *closing, _ = [chunk.event for chunk in fold.end()]
    assert statuses(closing) == ["FAILURE"]
    assert closing[0].tool_call.content == text
    answered = {"choices": [{"finish_reason": "tool_calls", "message": {"content": "So: ", "tool_calls": [
        {"id": "c", "function": {"name": "weather", "arguments": text}},
    ]}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}  # fmt: skip
    assert chat(answered, "h:1").completion_message.content.items[0].text == f"So: {text}"


def test_logprobs_go_with_their_tokens() -> None:
    def token(text: str, logprob: float) -> dict[str, Any]:
        top = [{"token": "other", "logprob": -3.0}, {"token": text, "logprob": logprob}]
        return {"token": text, "logprob": logprob, "top_logprobs": top}

    def event(text: str, logprob: float) -> dict[str, Any]:
        made = delta(content=text)
        made["choices"][0]["logprobs"] = {"content": [token(text, logprob)]}
        return made

    fold = ChatFold("h:1")
    (first,) = events(fold, [event("a", -1.0), event("b", -2.0)])
    assert [dict(entry.logprobs_by_token) for entry in first.logprobs] == [
        {"a": -1.0, "other": -3.0},
        {"b": -2.0, "other": -3.0},
    ]


def test_logprobs_in_the_older_form() -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "top_logprobs": [{"z": -0.5}, None]}
    choice = {"index": 0, "text": "ab", "finish_reason": "length", "logprobs": logprobs}
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    whole = completion({"choices": [choice], "usage": usage}, "h:1")
    fold = CompletionFold("h:1")
    chunk, last = [*fold.feed([{"choices": [choice], "usage": usage}]), *fold.end()]
    for entries in (whole.logprobs, chunk.logprobs):
        assert [dict(entry.logprobs_by_token) for entry in entries] == [{"a": -1.0, "z": -0.5}, {"b": -2.0}]
    assert (last.stop_reason, last.usage.completion_tokens) == (Reason.STOP_REASON_OUT_OF_TOKENS, 2)


def test_logprobs_of_one_token_as_a_number() -> None:
    """Together's streams. 0.0 is certainty, and a probability."""

    def choice(text: str, **more: Any) -> dict[str, Any]:
        return {"index": 0, "text": text, "delta": {"content": text}, "finish_reason": None, **more}

    said = [choice("", logprobs=None), choice("a", logprobs=0.0), choice("b", logprobs=-2, top_logprobs={"z": -0.5})]
    last = {"choices": [choice("", logprobs=None, finish_reason="stop")]}
    told = [{"choices": [one]} for one in said]
    (spoken,) = events(ChatFold("h:1"), [*told, last])
    (written,) = CompletionFold("h:1").feed([*told, last])
    for entries in (spoken.logprobs, written.logprobs):
        assert [dict(entry.logprobs_by_token) for entry in entries] == [{"a": 0.0}, {"z": -0.5, "b": -2.0}]


def test_logprobs_of_a_chat_in_the_older_form() -> None:
    """Together's whole answers, and those of some models of Fireworks."""
    choice = {"message": {"content": "ab"}, "finish_reason": "stop"}
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [-1.0, -2.0], "token_ids": [1, 2], "top_logprobs": None}
    whole = chat({"choices": [{**choice, "logprobs": logprobs}], "usage": {"prompt_tokens": 1}}, "h:1")
    assert [dict(entry.logprobs_by_token) for entry in whole.logprobs] == [{"a": -1.0}, {"b": -2.0}]
    with pytest.raises(Internal):
        chat({"choices": [{**choice, "logprobs": {**logprobs, "tokens": ["a"]}}], "usage": {"prompt_tokens": 1}}, "h")


@pytest.mark.parametrize(
    "answered", [None, [], {}, {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{}], "usage": {}}]
)
def test_an_answer_of_another_form_is_internal(answered: Any) -> None:
    with pytest.raises(Internal, match="h:1"):
        chat(answered, "h:1")


@pytest.mark.parametrize(
    "data",
    [[], [{"index": 0, "embedding": [1.0]}] * 2, [{"index": 0, "embedding": "AAAA"}, {"index": 1, "embedding": []}]],
)
def test_embeddings_that_do_not_fit_the_question_are_internal(data: Any) -> None:
    with pytest.raises(Internal):
        embeddings({"data": data, "usage": {"prompt_tokens": 1}}, 2, "h:1")


def test_embeddings_are_put_in_order() -> None:
    data = json.loads('[{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]')
    made = embeddings({"data": data, "usage": {"prompt_tokens": 7}}, 2, "h:1")
    assert [list(item.values) for item in made.embeddings] == [[1.0], [2.0]]
    assert made.usage == pb.Usage(prompt_tokens=7)


@pytest.mark.parametrize("unsaid", [{}, {"usage": None}])
def test_embeddings_need_not_say_what_was_used(unsaid: dict[str, Any]) -> None:
    made = embeddings({"data": [{"index": 0, "embedding": [1.0]}], **unsaid}, 1, "h:1")
    assert made.usage == pb.Usage()
