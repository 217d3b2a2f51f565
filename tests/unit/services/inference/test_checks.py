"""Bad requests are refused before any provider sees them, with the field that is wrong."""

import math

import pytest

from services.inference import checks
from services.inference.texts import content
from stackmesh.common.v1 import content_pb2 as c
from stackmesh.errors import InvalidField
from stackmesh.inference.v1 import inference_service_pb2 as pb

USER = c.Message(user=c.UserMessage(content=content("hi")))
SYSTEM = c.Message(system=c.SystemMessage(content=content("be kind")))
SAID = c.Message(completion=c.CompletionMessage(content=content("hello")))
CALL = c.Message(completion=c.CompletionMessage(tool_calls=[c.ToolCall(call_id="1")]))
RESULT = c.Message(tool_response=c.ToolResponseMessage(call_id="1", content=content("42")))


def chat(*messages, **params):
    return pb.ChatCompletionRequest(model_id="m", messages=messages, sampling_params=pb.SamplingParams(**params))


WEATHER = c.ToolName(custom="weather")


def told(choice=None, required=None):
    tools = [c.ToolDefinition(tool_name=WEATHER)]
    return pb.ChatCompletionRequest(messages=[USER], tools=tools, tool_choice=choice, required_tool=required)


@pytest.mark.parametrize(
    "request_",
    [
        told("TOOL_CHOICE_NONE"),
        told("TOOL_CHOICE_REQUIRED"),
        told(required=WEATHER),
        told("TOOL_CHOICE_REQUIRED", WEATHER),
        chat(USER),
        chat(SYSTEM, USER, SAID, USER),
        chat(USER, CALL, RESULT),
        chat(USER, USER),
        chat(USER, temperature=0, top_p=1, top_k=0, max_tokens=0, repetition_penalty=1, stop=["."], seed=0),
    ],
)
def test_good_requests_pass(request_):
    checks.check_chat(request_)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (chat(), "messages"),
        (chat(USER, SYSTEM, USER), "messages[1]"),
        (chat(USER, SAID), "messages[1]"),
        (chat(SYSTEM), "messages[0]"),
        (chat(c.Message(), USER), "messages[0]"),
        (chat(USER, RESULT), "messages[1].tool_response.call_id"),
        (chat(c.Message(user=c.UserMessage())), "messages[0].user.content"),
        (
            chat(c.Message(user=c.UserMessage(content=c.Content(items=[c.ContentItem()])))),
            "messages[0].user.content.items[0]",
        ),
        (chat(USER, temperature=math.nan), "sampling_params.temperature"),
        (chat(USER, temperature=-0.1), "sampling_params.temperature"),
        (chat(USER, temperature=math.inf), "sampling_params.temperature"),
        (chat(USER, top_p=0), "sampling_params.top_p"),
        (chat(USER, top_p=math.nan), "sampling_params.top_p"),
        (chat(USER, repetition_penalty=0), "sampling_params.repetition_penalty"),
        (chat(USER, max_tokens=-1), "sampling_params.max_tokens"),
        (chat(USER, top_k=-5), "sampling_params.top_k"),
        (chat(USER, stop=[""]), "sampling_params.stop[0]"),
        (chat(USER, stop=["x"] * 17), "sampling_params.stop"),
        (pb.ChatCompletionRequest(messages=[USER], logprobs=pb.LogProbConfig(top_k=21)), "logprobs.top_k"),
        (pb.ChatCompletionRequest(messages=[USER], tools=[c.ToolDefinition()]), "tools[0].tool_name"),
        (pb.ChatCompletionRequest(messages=[USER], tool_choice="TOOL_CHOICE_REQUIRED"), "tool_choice"),
        (told(required=c.ToolName(custom="whether")), "required_tool"),
        (told("TOOL_CHOICE_NONE", WEATHER), "tool_choice"),
        (told("TOOL_CHOICE_AUTO", WEATHER), "tool_choice"),
    ],
)
def test_bad_chats_are_refused_with_their_field(request_, field):
    with pytest.raises(InvalidField) as caught:
        checks.check_chat(request_)
    assert caught.value.field == field


def test_other_requests_are_checked_too():
    with pytest.raises(InvalidField, match="content is empty"):
        checks.check_completion(pb.CompletionRequest())
    params = pb.SamplingParams(max_tokens=-2)
    with pytest.raises(InvalidField, match="max_tokens is -2"):
        checks.check_completion(pb.CompletionRequest(content=content("a"), sampling_params=params))
    with pytest.raises(InvalidField, match="contents is empty"):
        checks.check_embeddings(pb.EmbeddingsRequest())
    with pytest.raises(InvalidField, match=r"contents\[1\] is empty"):
        checks.check_embeddings(pb.EmbeddingsRequest(contents=[content("a"), c.Content()]))
    image = c.Content(items=[c.ContentItem(image=c.Image())])
    with pytest.raises(InvalidField, match="neither data nor"):
        checks.check_embeddings(pb.EmbeddingsRequest(contents=[image]))
