"""Requests in the words of Converse and of InvokeModel, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from services.inference import texts
from services.inference.bedrock import embedding, llama
from services.inference.bedrock.request import chat
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.subject import tool, user
from tests.fakes.bedrock_models import CLAUDE, COHERE, LLAMA, TITAN

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"
Choice = content_pb2.ToolChoice
Strategy = pb.SamplingStrategy
_SERVICE = botocore.session.get_session().get_service_model("bedrock-runtime")


def asked(request: pb.ChatCompletionRequest, model: str = CLAUDE, max_tokens: int | None = None) -> dict[str, Any]:
    """The parameters, which fit botocore's model of the service."""
    body = chat(request, model, max_tokens)
    shape = _SERVICE.operation_model("Converse").input_shape
    problems = ParamValidator().validate(body, shape)
    assert not problems.has_errors(), problems.generate_report()
    return body


def request(*messages: content_pb2.Message, **sampling: Any) -> pb.ChatCompletionRequest:
    params = pb.SamplingParams(**sampling) if sampling else None
    return pb.ChatCompletionRequest(model_id=f"us.{CLAUDE}", messages=messages or [user("hi")], sampling_params=params)


def system(text: str) -> content_pb2.Message:
    return content_pb2.Message(system=content_pb2.SystemMessage(content=texts.content(text)))


def assistant(text: str = "", **calls: dict[str, Any]) -> content_pb2.Message:
    """What the model said; `calls` are its calls of the tool `weather`, by id."""
    said = content_pb2.CompletionMessage(content=texts.content(text) if text else None)
    for call_id, arguments in calls.items():
        call = said.tool_calls.add(call_id=call_id, tool_name=content_pb2.ToolName(custom="weather"))
        call.arguments.update(arguments)
    return content_pb2.Message(completion=said)


def result(call_id: str, text: str) -> content_pb2.Message:
    name = content_pb2.ToolName(custom="weather")
    said = content_pb2.ToolResponseMessage(call_id=call_id, tool_name=name, content=texts.content(text))
    return content_pb2.Message(tool_response=said)


# Messages


def test_the_least() -> None:
    assert asked(request()) == {
        "modelId": f"us.{CLAUDE}",
        "messages": [{"role": "user", "content": [{"text": "hi"}]}],
    }


def test_system_messages_are_apart_and_roles_alternate() -> None:
    body = asked(
        request(system("Be brief."), system("Be kind."), user("a"), user("b", " c"), assistant("d"), user("e"))
    )
    assert body["system"] == [{"text": "Be brief."}, {"text": "Be kind."}]
    assert body["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "b"}, {"text": " c"}]},
        {"role": "assistant", "content": [{"text": "d"}]},
        {"role": "user", "content": [{"text": "e"}]},
    ]


def test_context_precedes_what_is_asked() -> None:
    message = user("now?")
    message.user.context.CopyFrom(texts.content("It is noon."))
    assert asked(request(message))["messages"][0]["content"] == [{"text": "It is noon."}, {"text": "now?"}]


def test_blank_texts_are_left_out() -> None:
    body = asked(request(user("a", " ", "\n"), assistant(" "), user("b")))
    assert body["messages"] == [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]


@pytest.mark.parametrize(("data", "kind"), [(PNG, "png"), (b"\xff\xd8\xff-", "jpeg"), (b"RIFF....WEBP-", "webp")])
def test_pictures_by_value_and_in_data_urls(data: bytes, kind: str) -> None:
    block = {"image": {"format": kind, "source": {"bytes": data}}}
    assert asked(request(user("what?", data)))["messages"][0]["content"] == [{"text": "what?"}, block]
    url = f"data:image/x;base64,{base64.b64encode(data).decode()}"
    assert asked(request(user("what?", url=url)))["messages"][0]["content"] == [{"text": "what?"}, block]


def test_pictures_elsewhere_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="by value only"):
        asked(request(user("what?", url="https://example.com/cat.png")))
    message = system("Look.")
    message.system.content.items.add(image=content_pb2.Image(data=PNG))
    with pytest.raises(Unsupported, match="no image in a system message"):
        asked(request(message, user("hi")))
    with pytest.raises(InvalidField, match="is none of PNG, JPEG, WebP"):
        asked(request(user(b"GIF89a")))


# Tools


def with_tools(*messages: content_pb2.Message) -> pb.ChatCompletionRequest:
    made = request(*messages)
    made.tools.extend([tool("weather", city="string"), tool("clock")])
    return made


def test_tools_are_told_with_their_schemas() -> None:
    made = with_tools()
    made.tools[1].ClearField("description")
    weather, clock = asked(made)["toolConfig"]["tools"]
    assert weather["toolSpec"] == {
        "name": "weather",
        "description": "Tells the weather.",
        "inputSchema": {
            "json": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
    assert "description" not in clock["toolSpec"]


@pytest.mark.parametrize(
    ("choice", "named", "expected"),
    [
        (Choice.TOOL_CHOICE_UNSPECIFIED, None, None),
        (Choice.TOOL_CHOICE_AUTO, None, None),
        (Choice.TOOL_CHOICE_REQUIRED, None, {"any": {}}),
        (Choice.TOOL_CHOICE_REQUIRED, "clock", {"tool": {"name": "clock"}}),
        (Choice.TOOL_CHOICE_UNSPECIFIED, "clock", {"tool": {"name": "clock"}}),
    ],
)
def test_how_free_the_model_is(choice: Any, named: str | None, expected: Any) -> None:
    made = with_tools()
    made.tool_choice = choice
    if named:
        made.required_tool.custom = named
    assert asked(made)["toolConfig"].get("toolChoice") == expected


CALLED = [
    user("weather?"),
    assistant("Let me see.", id_1={"city": "Oslo", "days": 3}, id_2={"city": "Rome"}),
    result("id_1", "rain"),
    result("id_2", "sun"),
]


def test_calls_and_all_their_results_in_one_message() -> None:
    _, called, results = asked(with_tools(*CALLED))["messages"]
    assert called["content"] == [
        {"text": "Let me see."},
        {"toolUse": {"toolUseId": "id_1", "name": "weather", "input": {"city": "Oslo", "days": 3}}},
        {"toolUse": {"toolUseId": "id_2", "name": "weather", "input": {"city": "Rome"}}},
    ]
    assert results == {
        "role": "user",
        "content": [
            {"toolResult": {"toolUseId": "id_1", "content": [{"text": "rain"}]}},
            {"toolResult": {"toolUseId": "id_2", "content": [{"text": "sun"}]}},
        ],
    }


def test_a_call_id_of_another_backend_s_is_made_to_fit() -> None:
    strange = "functions.weather/0 " + "x" * 60
    messages = [user("weather?"), assistant(**{strange: {"city": "Oslo"}}), result(strange, "rain")]
    _, called, results = asked(with_tools(*messages))["messages"]
    made = called["content"][0]["toolUse"]["toolUseId"]
    assert made == results["content"][0]["toolResult"]["toolUseId"]
    assert made.startswith("call-")
    assert made != asked(with_tools(user("?"), assistant(**{strange + "y": {}})))["messages"][1]["content"][0]


@pytest.mark.parametrize("tools", [True, False])
def test_without_tools_to_call_earlier_calls_are_told_as_text(tools: bool) -> None:
    """Converse takes them as they are beside a toolConfig only, with which the model could call."""
    made = with_tools(*CALLED) if tools else request(*CALLED)
    if tools:
        made.tool_choice = Choice.TOOL_CHOICE_NONE
    body = asked(made)
    assert "toolConfig" not in body
    assert body["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"text": "Let me see."},
                {"text": '[call of the tool weather: {"city": "Oslo", "days": 3}]'},
                {"text": '[call of the tool weather: {"city": "Rome"}]'},
            ],
        },
        {
            "role": "user",
            "content": [{"text": "[result of the tool weather: rain]"}, {"text": "[result of the tool weather: sun]"}],
        },
    ]


# Sampling


@pytest.mark.parametrize(
    ("params", "inference"),
    [
        ({}, None),
        ({"max_tokens": 5, "stop": ["x"]}, {"maxTokens": 5, "stopSequences": ["x"]}),
        ({"temperature": 0.5, "top_p": 0.25}, {"temperature": 0.5, "topP": 0.25}),
        ({"strategy": Strategy.SAMPLING_STRATEGY_GREEDY, "temperature": 0.5, "top_p": 0.25}, {"temperature": 0.0}),
        ({"strategy": Strategy.SAMPLING_STRATEGY_TOP_P, "top_p": 0.25, "top_k": 7}, {"topP": 0.25}),
        ({"repetition_penalty": 1.0, "seed": 7, "top_k": 0}, None),
    ],
)
def test_how_text_is_sampled(params: dict[str, Any], inference: dict[str, Any] | None) -> None:
    body = asked(request(**params))
    assert body.get("inferenceConfig") == inference
    assert "additionalModelRequestFields" not in body


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("anthropic.claude-3-haiku-20240307-v1:0", {"top_k": 7}),
        (f"global.{CLAUDE}", {"top_k": 7}),
        ("amazon.nova-pro-v1:0", {"inferenceConfig": {"topK": 7}}),
        ("mistral.mistral-7b-instruct-v0:2", {"top_k": 7}),
        ("cohere.command-r-v1:0", {"k": 7, "seed": 3}),
    ],
)
def test_what_only_a_family_understands(model: str, fields: dict[str, Any]) -> None:
    assert asked(request(top_k=7, seed=3), model)["additionalModelRequestFields"] == fields


@pytest.mark.parametrize("model", [LLAMA, f"us.{LLAMA}", "ai21.jamba-1-5-large-v1:0", "deepseek.r1-v1:0", "arn:aws:x"])
def test_a_top_k_that_a_family_does_not_have_is_unsupported(model: str) -> None:
    with pytest.raises(Unsupported, match="has no top_k"):
        asked(request(top_k=7), model)
    assert "additionalModelRequestFields" not in asked(request(seed=3), model)


def test_the_configured_max_tokens_is_for_requests_without() -> None:
    assert asked(request(), max_tokens=77)["inferenceConfig"] == {"maxTokens": 77}
    assert asked(request(max_tokens=5), max_tokens=77)["inferenceConfig"] == {"maxTokens": 5}


def test_a_schema_is_an_output_config() -> None:
    made = request()
    made.response_format.json_schema.update({"type": "object", "minProperties": 1})
    shape = asked(made)["outputConfig"]["textFormat"]
    assert shape["type"] == "json_schema"
    assert json.loads(shape["structure"]["jsonSchema"]["schema"]) == {"type": "object", "minProperties": 1}
    assert '"minProperties": 1,' in shape["structure"]["jsonSchema"]["schema"]


def _grammar(made: Any) -> None:
    made.response_format.grammar = 'root ::= "yes"'


def _logprobs(made: Any) -> None:
    made.logprobs.top_k = 0


def _penalty(made: Any) -> None:
    made.sampling_params.repetition_penalty = 1.1


@pytest.mark.parametrize(("change", "what"), [(_grammar, "gramma"), (_logprobs, "logprobs"), (_penalty, "repetition")])
def test_what_bedrock_does_not_have(change: Callable[[Any], None], what: str) -> None:
    chatting, continuing = request(), pb.CompletionRequest(model_id=LLAMA, content=texts.content("Once"))
    change(chatting)
    change(continuing)
    with pytest.raises(Unsupported, match=what):
        asked(chatting)
    with pytest.raises(Unsupported, match="response_format" if change is _grammar else what):
        llama.completion(continuing, LLAMA, None)


# Plain text


def text_body(made: pb.CompletionRequest, model: str = LLAMA, max_tokens: int | None = None) -> dict[str, Any]:
    return json.loads(llama.completion(made, model, max_tokens)["body"])


def test_plain_text_for_a_llama_model() -> None:
    made = pb.CompletionRequest(model_id=LLAMA, content=texts.content("Once"))
    assert text_body(made) == {"prompt": "Once", "max_gen_len": 2048}
    assert text_body(made, max_tokens=7)["max_gen_len"] == 7
    made.sampling_params.CopyFrom(pb.SamplingParams(temperature=0.5, top_p=0.25, max_tokens=9, stop=["x"], seed=3))
    assert text_body(made) == {"prompt": "Once", "max_gen_len": 9, "temperature": 0.5, "top_p": 0.25}
    made.sampling_params.strategy = Strategy.SAMPLING_STRATEGY_GREEDY
    assert text_body(made) == {"prompt": "Once", "max_gen_len": 9, "temperature": 0}


def test_what_continues_no_plain_text() -> None:
    made = pb.CompletionRequest(model_id="some-name", content=texts.content("Once"))
    with pytest.raises(Unsupported, match="only Llama continues a text, not some-name; use chat"):
        text_body(made, CLAUDE)
    made.sampling_params.top_k = 5
    with pytest.raises(Unsupported, match="top_k"):
        text_body(made)
    made.content.items.add(image=content_pb2.Image(data=PNG))
    with pytest.raises(Unsupported, match="image"):
        text_body(made)


# Vectors


def test_texts_come_in_the_batches_that_a_family_takes() -> None:
    said = [texts.content(str(n)) for n in range(200)]
    made = pb.EmbeddingsRequest(model_id="x", contents=said)
    assert [len(batch) for batch in embedding.batches(made, embedding.form_of(made, TITAN))] == [1] * 200
    cohere = embedding.form_of(made, f"us.{COHERE}")
    batches = embedding.batches(made, cohere)
    assert [len(batch) for batch in batches] == [96, 96, 8]
    assert cohere.body(["a"]) == {"texts": ["a"], "input_type": "search_document"}


def test_vectors_by_type_are_read_too() -> None:
    cohere = embedding.form_of(pb.EmbeddingsRequest(), "cohere.embed-v4:0")
    assert cohere.vectors({"embeddings": {"float": [[0.5]]}}, {}).values == [[0.5]]
    assert cohere.vectors({"embeddings": [[0.5]]}, {"x-amzn-bedrock-input-token-count": "3"}).tokens == 3


@pytest.mark.parametrize("model", [CLAUDE, LLAMA, "amazon.titan-embed-image-v1", "amazon.titan-text-express-v1"])
def test_other_models_make_no_vectors(model: str) -> None:
    with pytest.raises(Unsupported, match="none of the models that make vectors"):
        embedding.form_of(pb.EmbeddingsRequest(model_id=model), model)
