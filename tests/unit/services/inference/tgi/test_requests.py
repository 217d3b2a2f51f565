"""Requests as TGI reads them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from services.inference import texts
from services.inference.tgi import requests
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.subject import tool, user

PNG = b"\x89PNG\r\n\x1a\n"
S = pb.SamplingStrategy
DO = {"do_sample": True}


def completion(**more: Any) -> dict[str, Any]:
    request = pb.CompletionRequest(model_id="m", content=texts.content("once"), **more)
    return requests.completion(request, None)["parameters"]


def chat(*messages: content_pb2.Message, max_tokens: int | None = None, **more: Any) -> dict[str, Any]:
    request = pb.ChatCompletionRequest(model_id="m", messages=messages or [user("hi")], **more)
    return requests.chat(request, max_tokens)


def sampled(**params: Any) -> pb.SamplingParams:
    return pb.SamplingParams(**params)


def test_a_completion() -> None:
    request = pb.CompletionRequest(model_id="m", content=texts.content("once"))
    assert requests.completion(request, 77) == {
        "inputs": "once",
        "parameters": {"details": True, "return_full_text": False, "max_new_tokens": 77},
    }


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (sampled(), {}),
        (sampled(strategy=S.SAMPLING_STRATEGY_GREEDY, temperature=1.5, top_k=3, top_p=0.5), {"do_sample": False}),
        (sampled(temperature=0.0, top_p=0.5), {"do_sample": False}),
        (sampled(temperature=1.0), {**DO, "temperature": 1.0}),
        (sampled(temperature=0.5, top_p=0.9, top_k=4), {**DO, "temperature": 0.5, "top_p": 0.9, "top_k": 4}),
        (sampled(top_p=1.0, top_k=0), {}),  # numbers that say nothing, and that TGI refuses
        (sampled(temperature=2.0, top_p=1.0), {**DO, "temperature": 2.0}),
        (sampled(strategy=S.SAMPLING_STRATEGY_TOP_P, top_p=0.9, top_k=4), {**DO, "top_p": 0.9}),
        (sampled(strategy=S.SAMPLING_STRATEGY_TOP_K, top_p=0.9, top_k=4), {**DO, "top_k": 4}),
        (sampled(strategy=S.SAMPLING_STRATEGY_TOP_P), DO),
        (sampled(seed=7, stop=["a", "b"], max_tokens=9), {"seed": 7, "stop": ["a", "b"], "max_new_tokens": 9}),
        (sampled(repetition_penalty=1.3), {"repetition_penalty": 1.3}),
    ],
)
def test_how_tokens_are_chosen(params: pb.SamplingParams, expected: dict[str, Any]) -> None:
    body = completion(sampling_params=params)
    assert body == {"details": True, "return_full_text": False, **expected}


def test_probabilities() -> None:
    assert completion(logprobs=pb.LogProbConfig(top_k=3))["top_n_tokens"] == 3
    assert "top_n_tokens" not in completion(logprobs=pb.LogProbConfig())


def test_formats() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
    wanted = pb.ResponseFormat()
    wanted.json_schema.update(schema)
    for body in (completion(response_format=wanted)["grammar"], chat(response_format=wanted)["response_format"]):
        assert body == {"type": "json", "value": schema}
        assert isinstance(body["value"]["properties"]["n"]["minimum"], int)
    regex = pb.ResponseFormat(grammar="(yes|no)")
    for body in (completion(response_format=regex)["grammar"], chat(response_format=regex)["response_format"]):
        assert body == {"type": "regex", "value": "(yes|no)"}


@pytest.mark.parametrize("grammar", ["yes((", "*", "[a", "(?P<x", "a{2,1}", "a" * 99 + "("])
def test_what_is_no_regular_expression_is_refused(grammar: str) -> None:
    with pytest.raises(InvalidField, match=r"response_format\.grammar is no regular expression") as caught:
        completion(response_format=pb.ResponseFormat(grammar=grammar))
    assert grammar not in caught.value.message


def test_what_python_only_warns_of_is_let_through() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert completion(response_format=pb.ResponseFormat(grammar="[[a]"))["grammar"]["value"] == "[[a]"


def test_a_very_long_regular_expression_is_left_to_the_server() -> None:
    """To read it would take too long."""
    grammar = "(" * 5000
    assert completion(response_format=pb.ResponseFormat(grammar=grammar))["grammar"]["value"] == grammar


def test_a_chat() -> None:
    params = sampled(temperature=0.0, max_tokens=9, stop=["x"], seed=1, repetition_penalty=1.0, top_k=0, top_p=1.0)
    assert chat(sampling_params=params, logprobs=pb.LogProbConfig(top_k=2)) == {
        "model": "tgi",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stop": ["x"],
        "seed": 1,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert chat(max_tokens=77)["max_tokens"] == 77


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        (sampled(repetition_penalty=1.2), "repetition_penalty"),
        (sampled(top_k=4), "top_k"),
        (sampled(strategy=S.SAMPLING_STRATEGY_TOP_K, top_k=4), "top_k"),
    ],
)
def test_what_a_chat_would_ignore_is_unsupported(params: pb.SamplingParams, problem: str) -> None:
    with pytest.raises(Unsupported, match=problem):
        chat(sampling_params=params)


def test_tools() -> None:
    body = chat(tools=[tool("weather", city="string")], required_tool=content_pb2.ToolName(custom="weather"))
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["tools"][0]["function"]["parameters"]["properties"] == {"city": {"type": "string"}}
    with pytest.raises(Unsupported, match="not both"):
        chat(tools=[tool("weather")], response_format=pb.ResponseFormat(grammar="a"))


def made(text: str, *calls: dict[str, Any]) -> content_pb2.Message:
    said = content_pb2.CompletionMessage(content=texts.content(text) if text else None)
    for n, arguments in enumerate(calls):
        call = said.tool_calls.add(call_id=f"id-{n}", tool_name=content_pb2.ToolName(custom="weather"))
        call.arguments.update(arguments)
    return content_pb2.Message(completion=said)


def test_calls_are_told_as_objects_and_apart_from_words() -> None:
    call = {"id": "id-0", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo", "n": 3}}}
    arguments = {"city": "Oslo", "n": 3}
    assert chat(user("?"), made("", arguments), user("!"))["messages"][1:-1] == [
        {"role": "assistant", "tool_calls": [call]}
    ]
    assert chat(user("?"), made("I ask.", arguments), user("!"))["messages"][1:-1] == [
        {"role": "assistant", "content": "I ask."},
        {"role": "assistant", "tool_calls": [call]},
    ]


def test_pictures() -> None:
    [message] = chat(user("what?", PNG, url="https://x.test/a_(b).png"))["messages"]
    text, by_value, by_url = message["content"]
    assert text == {"type": "text", "text": "what?"}
    assert by_value["image_url"]["url"].startswith("data:image/png;base64,")
    assert by_url["image_url"]["url"] == "https://x.test/a_(b%29.png"
    picture = content_pb2.Content(items=[content_pb2.ContentItem(image=content_pb2.Image(data=PNG))])
    with pytest.raises(Unsupported, match="image"):
        requests.completion(pb.CompletionRequest(content=picture), None)


def test_how_a_prompt_is_counted() -> None:
    body = chat(tools=[tool("weather")])
    assert requests.for_counting(body) == ("/chat_tokenize", {"model": "tgi", "messages": body["messages"]})
    whole = requests.completion(pb.CompletionRequest(content=texts.content("once")), None)
    assert requests.for_counting(whole) == ("/tokenize", {"inputs": "once"})
    assert requests.counted([{"id": 1}, {"id": 2}]) == 2
    assert requests.counted({"tokenize_response": [{"id": 1}], "templated_text": ""}) == 1
    assert [requests.counted(nonsense) for nonsense in (None, "text", {}, {"tokenize_response": None}, 7)] == [0] * 5
