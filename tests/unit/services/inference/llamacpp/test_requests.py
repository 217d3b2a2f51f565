from __future__ import annotations

import pytest

from services.inference import texts
from services.inference.llamacpp.requests import chat_body, completion_body, json_schema
from services.inference.llamacpp.templates import CALL_BEGINS, CALL_ENDS
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.subject import tool, user

Choice = content_pb2.ToolChoice
Strategy = pb.SamplingStrategy


def completion(**fields) -> pb.CompletionRequest:
    return pb.CompletionRequest(content=texts.content("Hi"), **fields)


def sampled(params: pb.SamplingParams) -> dict:
    plain = completion_body(completion(), 100)
    body = completion_body(completion(sampling_params=params), 100)
    return {key: value for key, value in body.items() if key not in plain}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (pb.SamplingParams(), {}),
        (pb.SamplingParams(max_tokens=0), {}),
        (pb.SamplingParams(temperature=0.5, top_p=0.5, top_k=0), {"temperature": 0.5, "top_p": 0.5, "top_k": 0}),
        (
            pb.SamplingParams(strategy=Strategy.SAMPLING_STRATEGY_GREEDY, temperature=1.5),
            {"temperature": 0.0},
        ),
        (
            pb.SamplingParams(strategy=Strategy.SAMPLING_STRATEGY_TOP_P, top_p=0.75),
            {"top_p": 0.75, "top_k": 0, "min_p": 0.0},
        ),
        (
            pb.SamplingParams(strategy=Strategy.SAMPLING_STRATEGY_TOP_K, top_k=5),
            {"top_k": 5, "top_p": 1.0, "min_p": 0.0},
        ),
        (pb.SamplingParams(repetition_penalty=1.5), {"repeat_penalty": 1.5}),
        (pb.SamplingParams(max_tokens=9, stop=["a", "b"]), {"max_tokens": 9, "stop": ["a", "b"]}),
        (pb.SamplingParams(seed=0), {"seed": 0, "cache_prompt": False}),
        (pb.SamplingParams(seed=2**32 - 1), {"seed": 2**32 - 2, "cache_prompt": False}),
    ],
)
def test_sampling(params: pb.SamplingParams, expected: dict) -> None:
    assert sampled(params) == expected


def test_messages_become_roles_and_text() -> None:
    request = pb.ChatCompletionRequest(
        messages=[
            content_pb2.Message(system=content_pb2.SystemMessage(content=texts.content("Be brief."))),
            content_pb2.Message(user=content_pb2.UserMessage(content=texts.content("Hi"))),
            content_pb2.Message(completion=content_pb2.CompletionMessage(content=texts.content("Hello"))),
            content_pb2.Message(
                user=content_pb2.UserMessage(content=texts.content("Where?"), context=texts.content("Berlin is big."))
            ),
        ]
    )
    assert chat_body(request, 100)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Berlin is big.\n\nWhere?"},
    ]


def test_messages_of_tools() -> None:
    made = content_pb2.ToolCall(call_id="1", tool_name=content_pb2.ToolName(custom="weather"))
    made.arguments.update({"city": "Ålesund", "days": 3})
    request = pb.ChatCompletionRequest(
        messages=[
            user("What is the weather?"),
            content_pb2.Message(completion=content_pb2.CompletionMessage(tool_calls=[made])),
            content_pb2.Message(
                tool_response=content_pb2.ToolResponseMessage(call_id="1", content=texts.content("4 degrees"))
            ),
        ]
    )
    function = {"name": "weather", "arguments": '{"city": "Ålesund", "days": 3}'}
    assert chat_body(request, 100)["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": "4 degrees"},
    ]


def offering(**fields) -> pb.ChatCompletionRequest:
    tools = [tool("weather", city="string"), tool("clock", zone="string")]
    return pb.ChatCompletionRequest(messages=[user("Hi")], tools=tools, **fields)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice.TOOL_CHOICE_UNSPECIFIED, "auto"),
        (Choice.TOOL_CHOICE_AUTO, "auto"),
        (Choice.TOOL_CHOICE_NONE, "none"),
        (Choice.TOOL_CHOICE_REQUIRED, "required"),
    ],
)
def test_tools_and_their_choice(choice: content_pb2.ToolChoice.ValueType, expected: str) -> None:
    body = chat_body(offering(tool_choice=choice), 100)
    assert body["tool_choice"] == expected
    assert [each["function"]["name"] for each in body["tools"]] == ["weather", "clock"]
    assert "parallel_tool_calls" not in body


def test_a_tool_that_has_to_be_called_is_the_only_one() -> None:
    body = chat_body(offering(required_tool=content_pb2.ToolName(custom="clock")), 100)
    assert [each["function"]["name"] for each in body["tools"]] == ["clock"]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)


def test_an_answer_that_has_to_be_a_call_is_begun_with_one_where_its_form_is_ours() -> None:
    params = pb.SamplingParams(stop=["x"])
    request = offering(tool_choice=Choice.TOOL_CHOICE_REQUIRED, sampling_params=params)
    body = chat_body(request, 100, taught=True)
    assert body["messages"][-1] == {"role": "assistant", "content": CALL_BEGINS}
    assert body["stop"] == ["x", CALL_ENDS]
    for other in (chat_body(request, 100), chat_body(offering(sampling_params=params), 100, taught=True)):
        assert (len(other["messages"]), other["stop"]) == (1, ["x"])


@pytest.mark.parametrize("choice", [Choice.TOOL_CHOICE_AUTO, Choice.TOOL_CHOICE_REQUIRED])
def test_formats_beside_tools_are_unsupported(choice: content_pb2.ToolChoice.ValueType) -> None:
    for response_format in (pb.ResponseFormat(grammar='root ::= "a"'), pb.ResponseFormat(json_schema={})):
        with pytest.raises(Unsupported, match="response_format"):
            chat_body(offering(tool_choice=choice, response_format=response_format), 100)
    none = offering(tool_choice=Choice.TOOL_CHOICE_NONE, response_format=pb.ResponseFormat(grammar='root ::= "a"'))
    assert chat_body(none, 100)["grammar"] == 'root ::= "a"'


def test_logprobs_beside_tools_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="logprobs"):
        chat_body(offering(logprobs=pb.LogProbConfig()), 100)


def test_pictures_are_unsupported_wherever_they_are() -> None:
    picture = content_pb2.Content(items=[content_pb2.ContentItem(image=content_pb2.Image(data=b"\x89PNG"))])
    for message, where in (
        (content_pb2.Message(user=content_pb2.UserMessage(content=picture)), "user.content"),
        (content_pb2.Message(user=content_pb2.UserMessage(context=picture)), "user.context"),
        (content_pb2.Message(tool_response=content_pb2.ToolResponseMessage(content=picture)), "tool_response.content"),
    ):
        with pytest.raises(Unsupported, match=rf"messages\[0\]\.{where}: .*images"):
            chat_body(pb.ChatCompletionRequest(messages=[message]), 100)


@pytest.mark.parametrize(("top_k", "asked"), [(0, 1), (3, 3)])
def test_logprobs(top_k: int, asked: int) -> None:
    config = pb.LogProbConfig(top_k=top_k)
    assert completion_body(completion(logprobs=config), 100)["logprobs"] == asked
    chat = chat_body(pb.ChatCompletionRequest(logprobs=config), 100)
    assert (chat["logprobs"], chat["top_logprobs"]) == (True, asked)


def test_text_far_over_the_context_is_refused_unread() -> None:
    request = pb.CompletionRequest(content=texts.content("x" * 25_601))
    with pytest.raises(InvalidField, match=r"25601 characters.*100 tokens"):
        completion_body(request, 100)
    tools = offering()
    tools.tools[0].description = "x" * 25_600
    with pytest.raises(InvalidField, match=r"tools is .*100 tokens"):
        chat_body(tools, 100)
    calls = pb.ChatCompletionRequest(messages=[content_pb2.Message()])
    calls.messages[0].completion.tool_calls.add().arguments.update({"a": "x" * 25_600})
    with pytest.raises(InvalidField, match=r"messages is .*100 tokens"):
        chat_body(calls, 100)


@pytest.mark.parametrize(("grammar", "wrong"), [(" ", "empty"), ("%llguidance {}\nstart: %json x", "GBNF")])
def test_grammar_has_to_be_gbnf(grammar: str, wrong: str) -> None:
    with pytest.raises(InvalidField, match=wrong):
        completion_body(completion(response_format=pb.ResponseFormat(grammar=grammar)), 100)


def test_numbers_of_a_schema_are_integers_again() -> None:
    response_format = pb.ResponseFormat()
    response_format.json_schema.update({"minItems": 2, "items": {"enum": [1, 0.5, "a", True, None]}})
    schema = json_schema(response_format)
    assert schema == {"minItems": 2, "items": {"enum": [1, 0.5, "a", True, None]}}
    assert schema is not None
    assert type(schema["minItems"]) is int
    assert json_schema(pb.ResponseFormat()) is None
