"""Requests as the server sees them."""

import base64
from typing import Any

import pytest
from google.protobuf import json_format

from services.inference import texts
from services.inference.openai import request as body
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

DIALECT = body.Dialect(max_tokens=None, grammar=lambda grammar: {"guide": grammar})
PNG = b"\x89PNG\r\n\x1a\n" + b"rest"


def chat(to: body.Dialect = DIALECT, **fields: Any) -> dict[str, Any]:
    request: dict[str, Any] = {"model_id": "m", "messages": [user("hi")], **fields}
    return body.chat(json_format.ParseDict(request, pb.ChatCompletionRequest()), to)


def dialect(max_tokens: int | None = None, **more: Any) -> body.Dialect:
    return body.Dialect(max_tokens, DIALECT.grammar, **more)


def user(*items: Any, **more: Any) -> dict[str, Any]:
    return {"user": {"content": said(*items), **more}}


def said(*items: Any) -> dict[str, Any]:
    return {"items": [{"text": item} if isinstance(item, str) else {"image": item} for item in items]}


def test_the_least_there_can_be() -> None:
    assert chat() == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_conversation_with_a_tool() -> None:
    call = {"call_id": "c1", "tool_name": {"builtin": "BUILTIN_TOOL_BRAVE_SEARCH"}, "arguments": {"query": "é"}}
    messages = [
        {"system": {"content": said("be ", "brief")}},
        user("what?"),
        {"completion": {"tool_calls": [call]}},
        {"tool_response": {"call_id": "c1", "tool_name": {"custom": "x"}, "content": said("that")}},
    ]
    assert chat(messages=messages)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "brave_search", "arguments": '{"query": "é"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "that"},
    ]


def test_context_is_read_before_content() -> None:
    sent = chat(messages=[user("question", context=said("found"))])
    assert sent["messages"] == [{"role": "user", "content": "found\n\nquestion"}]


def test_images_keep_their_place() -> None:
    inline = base64.b64encode(PNG).decode()
    sent = chat(messages=[user("before", {"data": inline}, {"uri": "https://x/y.png"}, context=said("found"))])
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "found"},
        {"type": "text", "text": "\n\n"},
        {"type": "text", "text": "before"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{inline}"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


@pytest.mark.parametrize(
    ("start", "mime_type"), [(b"\xff\xd8\xff\xe0", "image/jpeg"), (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp")]
)
def test_an_image_says_its_kind(start: bytes, mime_type: str) -> None:
    sent = chat(messages=[user({"data": base64.b64encode(start).decode()})])
    assert sent["messages"][0]["content"][0]["image_url"]["url"].startswith(f"data:{mime_type};base64,")


def test_an_image_of_no_known_kind_is_refused() -> None:
    with pytest.raises(InvalidField, match="PNG, JPEG, WebP"):
        chat(messages=[user({"data": base64.b64encode(b"RIFFxxxxWAVE").decode()})])


def test_tools_become_functions() -> None:
    tool = {
        "tool_name": {"custom": "weather"},
        "description": "tells",
        "parameters": {
            "city": {"param_type": "string", "description": "where"},
            "days": {"param_type": "integer", "required": False, "default": 3},
        },
    }
    sent = chat(tools=[tool], tool_choice="TOOL_CHOICE_REQUIRED")
    assert sent["tool_choice"] == "required"
    function = sent["tools"][0]["function"]
    assert function["name"] == "weather"
    assert function["parameters"]["properties"] == {
        "city": {"type": "string", "description": "where"},
        "days": {"type": "integer", "default": 3},
    }
    assert function["parameters"]["required"] == ["city"]
    assert chat(tools=[tool])["tool_choice"] == "auto"
    assert chat(tools=[tool], tool_choice="TOOL_CHOICE_NONE")["tool_choice"] == "none"
    named = chat(tools=[tool], required_tool={"custom": "weather"})["tool_choice"]
    assert named == {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 0}, {"temperature": 0.0, "top_p": 0.5, "top_k": 0}),
        ({"strategy": "SAMPLING_STRATEGY_GREEDY", "temperature": 1.0, "top_p": 0.5}, {"temperature": 0.0}),
        ({"strategy": "SAMPLING_STRATEGY_TOP_P", "top_p": 0.5, "top_k": 4}, {"top_p": 0.5}),
        ({"strategy": "SAMPLING_STRATEGY_TOP_K", "top_p": 0.5, "top_k": 4}, {"top_k": 4}),
        ({"max_tokens": 7, "repetition_penalty": 1.1}, {"max_tokens": 7, "repetition_penalty": 1.1}),
        ({"max_tokens": 0}, {}),
        ({"stop": ["a", "b"], "seed": 0}, {"stop": ["a", "b"], "seed": 0}),
    ],
)
def test_sampling(params: dict[str, Any], expected: dict[str, Any]) -> None:
    sent = chat(sampling_params=params)
    assert {key: value for key, value in sent.items() if key not in ("model", "messages")} == expected


def test_the_configured_max_tokens_is_taken_when_none_is_asked_for() -> None:
    assert chat(dialect(64))["max_tokens"] == 64
    assert chat(dialect(64), sampling_params={"max_tokens": 5})["max_tokens"] == 5


def test_a_schema_keeps_its_whole_numbers() -> None:
    schema = {"type": "array", "minItems": 1, "items": {"type": "number", "maximum": 2.5, "nullable": True, "x": None}}
    sent = chat(response_format={"json_schema": schema})["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "response", "schema": schema, "strict": True}}
    assert type(sent["json_schema"]["schema"]["minItems"]) is int


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_json_does_not_know_is_refused(number: float) -> None:
    request = pb.ChatCompletionRequest(model_id="m")
    request.response_format.json_schema["minimum"] = number
    with pytest.raises(InvalidField, match="NaN"):
        body.chat(request, DIALECT)


def test_a_grammar_is_the_dialects() -> None:
    assert chat(response_format={"grammar": "root ::= x"})["guide"] == "root ::= x"


def test_logprobs() -> None:
    sent = chat(logprobs={"top_k": 3})
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 3)
    request = pb.CompletionRequest(model_id="m", content=texts.content("x"), logprobs=pb.LogProbConfig())
    assert body.completion(request, DIALECT)["logprobs"] == 0


def test_a_completion_asks_for_all_there_is_room_for() -> None:
    request = pb.CompletionRequest(model_id="m", content=texts.content("once"))
    assert body.completion(request, DIALECT) == {"model": "m", "prompt": "once", "max_tokens": None}


def test_only_chats_see() -> None:
    picture = content_pb2.Content(items=[content_pb2.ContentItem(image=content_pb2.Image(data=PNG))])
    with pytest.raises(Unsupported, match="image"):
        body.completion(pb.CompletionRequest(model_id="m", content=picture), DIALECT)
    with pytest.raises(Unsupported, match="image"):
        body.embeddings(pb.EmbeddingsRequest(model_id="m", contents=[picture]))


def test_a_stream_asks_for_its_usage() -> None:
    streamed = {"model": "m", "stream": True}
    assert body.streamed({"model": "m"}, DIALECT) == {**streamed, "stream_options": {"include_usage": True}}
    assert body.streamed({"model": "m"}, dialect(usage_unasked=True)) == streamed


# What some servers do in their own ways


def test_probabilities_may_be_asked_for_in_another_way() -> None:
    by_number = dialect(chat_logprobs=lambda top: {"logprobs": top}, least_logprobs=1)
    assert [chat(by_number, logprobs={"top_k": top})["logprobs"] for top in (0, 1, 3)] == [1, 1, 3]
    assert "top_logprobs" not in chat(by_number, logprobs={})
    assert "logprobs" not in chat(by_number)
    request = pb.CompletionRequest(model_id="m", content=texts.content("x"), logprobs=pb.LogProbConfig())
    assert body.completion(request, by_number)["logprobs"] == 1


def test_a_chat_without_a_limit_may_have_to_say_so() -> None:
    without = dialect(without_limit={"max_tokens": None})
    assert chat(without)["max_tokens"] is None
    assert chat(without, sampling_params={"max_tokens": 5})["max_tokens"] == 5
    assert chat(dialect(64, without_limit={"max_tokens": None}))["max_tokens"] == 64


@pytest.mark.parametrize("response_format", [{"json_schema": {"type": "object"}}, {"grammar": "root ::= x"}])
def test_a_format_may_be_for_chats_only(response_format: dict[str, Any]) -> None:
    request = pb.CompletionRequest(model_id="m", content=texts.content("x"))
    json_format.ParseDict(response_format, request.response_format)
    plain = pb.CompletionRequest(model_id="m", content=texts.content("x"))
    body.completion(request, DIALECT)
    body.completion(plain, dialect(formatted_completions=False))
    with pytest.raises(Unsupported, match="chats only"):
        body.completion(request, dialect(formatted_completions=False))


@pytest.mark.parametrize(
    ("limits", "fits", "over", "problem"),
    [
        ({"most_stops": 2}, {"sampling_params": {"stop": ["a", "b"]}},
         {"sampling_params": {"stop": ["a", "b", "c"]}}, "at most 2 stop sequences, these are 3"),
        ({"most_logprobs": 5}, {"logprobs": {"top_k": 5}},
         {"logprobs": {"top_k": 6}}, "at most 5 of the likeliest tokens .*, these are 6"),
        ({"most_images": 1}, {"messages": [user({"uri": "https://x/1"})]},
         {"messages": [user({"uri": "https://x/1"}), user("and", context=said({"uri": "https://x/2"}))]},
         "at most 1 images, these are 2"),
    ],
)  # fmt: skip
def test_there_may_be_limits(limits: dict[str, int], fits: dict[str, Any], over: dict[str, Any], problem: str) -> None:
    chat(dialect(**limits), **fits)
    chat(DIALECT, **over)
    with pytest.raises(Unsupported, match=problem):
        chat(dialect(**limits), **over)


@pytest.mark.parametrize(
    "over", [{"sampling_params": {"stop": ["a", "b", "c"]}}, {"logprobs": {"top_k": 6}}], ids=["stops", "logprobs"]
)
def test_the_limits_hold_for_completions_too(over: dict[str, Any]) -> None:
    request = pb.CompletionRequest(model_id="m", content=texts.content("x"))
    json_format.ParseDict(over, request)
    body.completion(request, DIALECT)
    with pytest.raises(Unsupported, match="at most"):
        body.completion(request, dialect(most_stops=2, most_logprobs=5))
