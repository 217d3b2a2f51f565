"""Conversations that show by example when to call a tool, so that even a very small model does."""

from __future__ import annotations

from collections.abc import Sequence

from services.inference import texts
from stackmesh.common.v1 import content_pb2
from stackmesh.inference.v1 import inference_service_pb2 as pb
from tests.contracts.inference_provider.subject import tool, user

Message = content_pb2.Message

WEATHER = tool("weather", city="string")


def asked(*cities: str) -> Message:
    return user(f"Weather in {' and '.join(cities)}?")


def called(*cities: str) -> Message:
    """What the assistant made of it: a call for each."""
    message = Message()
    for city in cities:
        call = message.completion.tool_calls.add(call_id=f"id-{city}", tool_name=WEATHER.tool_name)
        call.arguments.update({"city": city})
    return message


def returned(city: str, text: str) -> Message:
    result = content_pb2.ToolResponseMessage(
        call_id=f"id-{city}", tool_name=WEATHER.tool_name, content=texts.content(text)
    )
    return Message(tool_response=result)


def answered(text: str) -> Message:
    return Message(completion=content_pb2.CompletionMessage(content=texts.content(text)))


ONE: Sequence[Message] = (
    *(asked("Oslo"), called("Oslo")),
    *(asked("Rome"), called("Rome")),
    *(asked("Madrid"), called("Madrid")),
    asked("Paris"),
)
"""Next comes a call for Paris."""
TWO: Sequence[Message] = (
    *(asked("Oslo", "Rome"), called("Oslo", "Rome")),
    *(asked("Madrid", "Berlin"), called("Madrid", "Berlin")),
    asked("Paris", "London"),
)
"""Next come a call for Paris and one for London."""
RESULT: Sequence[Message] = (
    *(asked("Oslo"), called("Oslo"), returned("Oslo", "-3 degrees"), answered("It is -3 degrees in Oslo.")),
    *(asked("Rome"), called("Rome"), returned("Rome", "21 degrees"), answered("It is 21 degrees in Rome.")),
    *(asked("Paris"), called("Paris"), returned("Paris", "17 degrees")),
)
"""Next comes "It is 17 degrees in Paris."."""


def cities(calls: Sequence[content_pb2.ToolCall]) -> list[str]:
    """Which cities are asked for, all by `weather`."""
    assert all(call.tool_name == WEATHER.tool_name for call in calls)
    return [call.arguments["city"] for call in calls]


def request(model: str, messages: Sequence[Message], **fields) -> pb.ChatCompletionRequest:
    params = pb.SamplingParams(strategy=pb.SamplingStrategy.SAMPLING_STRATEGY_GREEDY, max_tokens=100)
    return pb.ChatCompletionRequest(
        model_id=model, messages=messages, sampling_params=params, tools=[WEATHER], **fields
    )
