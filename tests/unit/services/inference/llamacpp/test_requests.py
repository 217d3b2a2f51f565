from __future__ import annotations

import pytest

from services.inference import texts
from services.inference.llamacpp.requests import chat_body, completion_body, json_schema
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

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


@pytest.mark.parametrize(
    "message",
    [
        content_pb2.Message(tool_response=content_pb2.ToolResponseMessage(call_id="1", content=texts.content("x"))),
        content_pb2.Message(completion=content_pb2.CompletionMessage(tool_calls=[content_pb2.ToolCall(call_id="1")])),
    ],
)
def test_messages_of_tools_are_unsupported(message: content_pb2.Message) -> None:
    with pytest.raises(Unsupported, match=r"messages\[0\]"):
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
