"""Requests as bodies of Ollama's API."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from services.inference import texts
from services.inference.ollama import request as body
from services.inference.ollama.request import Defaults
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

NONE = Defaults(None, None, None)
ALL = Defaults(max_tokens=77, num_ctx=8192, keep_alive="5m")
PNG = b"\x89PNG\r\n\x1a\npicture"
Choice = content_pb2.ToolChoice
Strategy = pb.SamplingStrategy


def chat(text: str = "hi", **more: Any) -> pb.ChatCompletionRequest:
    message = content_pb2.Message(user=content_pb2.UserMessage(content=texts.content(text)))
    return pb.ChatCompletionRequest(model_id="m:latest", messages=[message], **more)


def completion(text: str = "once", **more: Any) -> pb.CompletionRequest:
    return pb.CompletionRequest(model_id="m:latest", content=texts.content(text), **more)


def test_a_chat() -> None:
    assert body.chat(chat(), NONE) == {
        "model": "m:latest",
        "messages": [{"role": "user", "content": "hi"}],
        "truncate": False,
        "options": {},
    }


def test_a_completion_is_in_no_template() -> None:
    asked = body.completion(completion(), NONE)
    assert asked == {
        "model": "m:latest",
        "prompt": "once",
        "raw": True,
        "think": False,
        "truncate": False,
        "options": {},
    }


def test_what_goes_with_every_request() -> None:
    options = {"num_ctx": 8192, "num_predict": 77}
    for asked in (body.chat(chat(), ALL), body.completion(completion(), ALL)):
        assert (asked["options"], asked["keep_alive"]) == (options, "5m")
    embedded = body.embeddings(pb.EmbeddingsRequest(model_id="e", contents=[texts.content("a")]), ALL)
    assert embedded == {
        "model": "e",
        "input": ["a"],
        "truncate": False,
        "options": {"num_ctx": 8192},
        "keep_alive": "5m",
    }
    assert body.nothing("m", ALL) == {"model": "m", "options": {"num_ctx": 8192}, "keep_alive": "5m"}
    assert body.nothing("m", NONE) == {"model": "m"}


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, {}),
        (
            {"max_tokens": 5, "seed": 2**32 - 1, "stop": ["a", "b"], "repetition_penalty": 1.5},
            {"num_predict": 5, "seed": 2**32 - 1, "stop": ["a", "b"], "repeat_penalty": 1.5},
        ),
        ({"temperature": 0.5, "top_p": 0.25, "top_k": 9}, {"temperature": 0.5, "top_p": 0.25, "top_k": 9}),
        (
            {"strategy": Strategy.SAMPLING_STRATEGY_GREEDY, "temperature": 0.5, "top_p": 0.25, "top_k": 9},
            {"temperature": 0.0},
        ),
        (
            {"strategy": Strategy.SAMPLING_STRATEGY_TOP_P, "temperature": 0.5, "top_p": 0.25, "top_k": 9},
            {"temperature": 0.5, "top_p": 0.25, "top_k": 0},
        ),
        ({"strategy": Strategy.SAMPLING_STRATEGY_TOP_K, "top_p": 0.25, "top_k": 9}, {"top_p": 1.0, "top_k": 9}),
        ({"temperature": 0.0, "top_k": 0}, {"temperature": 0.0, "top_k": 0}),
    ],
)
def test_sampling(params: dict[str, Any], options: dict[str, Any]) -> None:
    assert body.chat(chat(sampling_params=pb.SamplingParams(**params)), NONE)["options"] == options


def test_formats() -> None:
    request = chat()
    request.response_format.json_schema.update({"type": "string", "minLength": 5})
    asked = body.chat(request, NONE)["format"]
    assert (asked, type(asked["minLength"])) == ({"type": "string", "minLength": 5}, int)
    request.response_format.grammar = 'root ::= "yes"'
    with pytest.raises(Unsupported, match="no grammar"):
        body.chat(request, NONE)


@pytest.mark.parametrize("top_k", [0, 3])
def test_probabilities(top_k: int) -> None:
    wanted = pb.LogProbConfig(top_k=top_k)
    for asked in (body.chat(chat(logprobs=wanted), NONE), body.completion(completion(logprobs=wanted), NONE)):
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, top_k)


def test_an_empty_text_is_no_wish_to_load_the_model() -> None:
    with pytest.raises(InvalidField, match="content is empty"):
        body.completion(completion(""), NONE)


# Messages


def test_roles_and_results_of_tools() -> None:
    request = chat("Weather?")
    request.messages[0].user.context.CopyFrom(texts.content("It is noon."))
    request.messages.insert(0, content_pb2.Message())
    request.messages[0].system.content.CopyFrom(texts.content("Be brief."))
    call = request.messages.add().completion.tool_calls.add(call_id="id-1")
    call.tool_name.builtin = content_pb2.BuiltinTool.BUILTIN_TOOL_BRAVE_SEARCH
    call.arguments.update({"query": "Oslo", "n": 3, "deep": {"x": [1, None]}})
    result = request.messages.add().tool_response
    result.call_id = "id-1"
    result.content.CopyFrom(texts.content("4 degrees"))
    arguments = {"query": "Oslo", "n": 3, "deep": {"x": [1, None]}}
    assert body.chat(request, NONE)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "It is noon.\n\nWeather?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "id-1", "function": {"name": "brave_search", "arguments": arguments}}],
        },
        {"role": "tool", "content": "4 degrees", "tool_name": "brave_search", "tool_call_id": "id-1"},
    ]


@pytest.mark.parametrize(
    "image",
    [{"data": PNG}, {"uri": "data:image/png;base64," + base64.b64encode(PNG).decode()}],
)
def test_pictures_are_apart_from_the_text(image: dict[str, Any]) -> None:
    request = chat("what is ")
    request.messages[0].user.content.items.add(image=content_pb2.Image(**image))
    request.messages[0].user.content.items.add(text="this?")
    [message] = body.chat(request, NONE)["messages"]
    assert message == {"role": "user", "content": "what is this?", "images": [base64.b64encode(PNG).decode()]}


def test_pictures_elsewhere_are_unsupported() -> None:
    request = chat()
    request.messages[0].user.content.items.add(image=content_pb2.Image(uri="https://example.com/cat.png"))
    with pytest.raises(Unsupported, match="Ollama takes an image by value only"):
        body.chat(request, NONE)


def test_pictures_are_not_continued_nor_embedded() -> None:
    picture = content_pb2.Content(items=[content_pb2.ContentItem(image=content_pb2.Image(data=PNG))])
    with pytest.raises(Unsupported, match="no text completion of an image"):
        body.completion(pb.CompletionRequest(content=picture), NONE)
    with pytest.raises(Unsupported, match="no embedding of an image"):
        body.embeddings(pb.EmbeddingsRequest(contents=[texts.content("a"), picture]), NONE)


# Tools


def with_tool(**more: Any) -> pb.ChatCompletionRequest:
    request = chat(**more)
    tool = request.tools.add(description="Tells the weather.")
    tool.tool_name.custom = "weather"
    tool.parameters["city"].param_type = "string"
    return request


def test_tools_are_told() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    function = {"name": "weather", "description": "Tells the weather.", "parameters": schema}
    for choice in (Choice.TOOL_CHOICE_UNSPECIFIED, Choice.TOOL_CHOICE_AUTO):
        assert body.chat(with_tool(tool_choice=choice), NONE)["tools"] == [{"type": "function", "function": function}]


def test_tools_that_may_not_be_called_are_not_told() -> None:
    assert "tools" not in body.chat(with_tool(tool_choice=Choice.TOOL_CHOICE_NONE), NONE)


def test_no_tool_can_be_made_to_be_called() -> None:
    required = with_tool(tool_choice=Choice.TOOL_CHOICE_REQUIRED)
    named = with_tool(required_tool=content_pb2.ToolName(custom="weather"))
    for request in (required, named):
        with pytest.raises(Unsupported, match="tool_choice can be AUTO or NONE"):
            body.chat(request, NONE)
