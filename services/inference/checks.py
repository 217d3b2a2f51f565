"""What every inference request has to satisfy, whichever provider gets it. Each check raises InvalidField."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from services.inference import texts
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField
from stackmesh.inference.v1 import inference_service_pb2 as pb

STOP_LIMIT: Final = 16
LOGPROBS_LIMIT: Final = 20

_Choice = content_pb2.ToolChoice
Request = pb.CompletionRequest | pb.ChatCompletionRequest


def check_completion(request: pb.CompletionRequest) -> None:
    _check_content("content", request.content)
    _check_generation(request)


def check_chat(request: pb.ChatCompletionRequest) -> None:
    _check_messages(request.messages)
    _check_generation(request)
    for index, tool in enumerate(request.tools):
        if not (tool.tool_name.builtin or tool.tool_name.custom):
            raise InvalidField(f"tools[{index}].tool_name", "is empty")
    _check_tool_choice(request)


def _check_tool_choice(request: pb.ChatCompletionRequest) -> None:
    if request.tool_choice == _Choice.TOOL_CHOICE_REQUIRED and not request.tools:
        raise InvalidField("tool_choice", "is REQUIRED though there are no tools")
    if not request.HasField("required_tool"):
        return
    if request.required_tool not in [tool.tool_name for tool in request.tools]:
        raise InvalidField("required_tool", "is none of tools")
    if request.tool_choice not in (_Choice.TOOL_CHOICE_UNSPECIFIED, _Choice.TOOL_CHOICE_REQUIRED):
        raise InvalidField("tool_choice", "has to be REQUIRED, or absent, beside required_tool")


def check_embeddings(request: pb.EmbeddingsRequest) -> None:
    if not request.contents:
        raise InvalidField("contents", "is empty: give at least one text")
    for index, content in enumerate(request.contents):
        _check_content(f"contents[{index}]", content)


def _check_generation(request: Request) -> None:
    _check_sampling(request.sampling_params)
    if not 0 <= request.logprobs.top_k <= LOGPROBS_LIMIT:
        raise InvalidField("logprobs.top_k", f"is {request.logprobs.top_k}, allowed are 0 to {LOGPROBS_LIMIT}")


def _check_sampling(params: pb.SamplingParams) -> None:
    _check_number("temperature", params, 0.0, 2.0)
    _check_number("top_p", params, 0.0, 1.0, above=True)
    _check_number("repetition_penalty", params, 0.0, 10.0, above=True)
    for name in ("max_tokens", "top_k"):
        if (value := getattr(params, name)) < 0:
            raise InvalidField(f"sampling_params.{name}", f"is {value}, it cannot be negative")
    if len(params.stop) > STOP_LIMIT:
        raise InvalidField("sampling_params.stop", f"has {len(params.stop)} sequences, allowed are {STOP_LIMIT}")
    for index, stop in enumerate(params.stop):
        if not stop:
            raise InvalidField(f"sampling_params.stop[{index}]", "is empty")


def _check_number(name: str, params: pb.SamplingParams, low: float, high: float, *, above: bool = False) -> None:
    if not params.HasField(name):  # pyright: ignore[reportArgumentType] -- one of the literals it wants
        return
    value: float = getattr(params, name)
    if math.isnan(value) or value > high or value < low or (above and value == low):
        bound = "over" if above else "from"
        raise InvalidField(f"sampling_params.{name}", f"is {value:g}, allowed is {bound} {low:g} to {high:g}")


def _check_messages(messages: Sequence[content_pb2.Message]) -> None:
    if not messages:
        raise InvalidField("messages", "is empty: give at least one message")
    open_calls: set[str] = set()
    talking = False
    for index, message in enumerate(messages):
        field = f"messages[{index}]"
        match message.WhichOneof("message"):
            case None:
                raise InvalidField(field, "has no role: set system, user, completion or tool_response")
            case "system" if talking:
                raise InvalidField(field, "is a system message after the conversation began: put it first")
            case "tool_response" if message.tool_response.call_id not in open_calls:
                raise InvalidField(f"{field}.tool_response.call_id", "answers no tool call made before it")
            case "completion":
                open_calls.update(call.call_id for call in message.completion.tool_calls)
            case _:
                pass
        talking = talking or not message.HasField("system")
        _check_message(field, message)
    last = messages[-1].WhichOneof("message")
    if last not in ("user", "tool_response"):
        raise InvalidField(f"messages[{len(messages) - 1}]", f"is a {last} message: a user or a tool has to speak last")


def _check_message(field: str, message: content_pb2.Message) -> None:
    if message.HasField("completion") and message.completion.tool_calls:
        return  # a call needs no words
    _check_content(f"{field}.{message.WhichOneof('message')}.content", texts.spoken(message))


def _check_content(field: str, content: content_pb2.Content) -> None:
    if not content.items:
        raise InvalidField(field, "is empty")
    for index, item in enumerate(content.items):
        if item.WhichOneof("item") is None:
            raise InvalidField(f"{field}.items[{index}]", "is neither text nor image")
        if item.HasField("image") and item.image.WhichOneof("source") is None:
            raise InvalidField(f"{field}.items[{index}].image", "has neither data nor a uri")
