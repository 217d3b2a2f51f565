"""Requests as bodies of Ollama's API.

A prompt that is too long for the context is refused, where Ollama would leave out its beginning and not say so.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from services.inference import images, texts, tools
from services.inference.values import to_json
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]
_Strategy = pb.SamplingStrategy
_Choice = content_pb2.ToolChoice


@dataclass(frozen=True, slots=True)
class Defaults:
    """What goes with every request. None leaves it to the server."""

    max_tokens: int | None
    """For requests that set none."""
    num_ctx: int | None
    """Tokens of context. One that differs from what the model was loaded with makes Ollama load it again."""
    keep_alive: float | str | None
    """As keep_alive.py has it."""


def completion(request: pb.CompletionRequest, defaults: Defaults) -> Body:
    """The body for /api/generate: the text as it is, in no template, of which nothing is taken for thinking."""
    if not (prompt := _text_only(request.content, "text completion")):
        raise InvalidField("content", "is empty: Ollama takes that for the wish to load the model")
    return {**_common(request, defaults), "prompt": prompt, "raw": True, "think": False}


def chat(request: pb.ChatCompletionRequest, defaults: Defaults) -> Body:
    """The body for /api/chat."""
    _check_tool_choice(request)
    names = _names(request.messages)
    body = {**_common(request, defaults), "messages": [_message(message, names) for message in request.messages]}
    if request.tools and request.tool_choice != _Choice.TOOL_CHOICE_NONE:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body


def embeddings(request: pb.EmbeddingsRequest, defaults: Defaults) -> Body:
    """The body for /api/embed."""
    said = [_text_only(content, "embedding") for content in request.contents]
    return {"model": request.model_id, "input": said, "truncate": False, **_kept(defaults)}


def nothing(model: str, defaults: Defaults) -> Body:
    """The body for /api/generate, and for /api/embed, that has the model loaded and kept, or let go of."""
    return {"model": model, **_kept(defaults)}


def _kept(defaults: Defaults) -> Body:
    body: Body = {}
    if defaults.num_ctx is not None:
        body["options"] = {"num_ctx": defaults.num_ctx}
    if defaults.keep_alive is not None:
        body["keep_alive"] = defaults.keep_alive
    return body


def _common(request: pb.CompletionRequest | pb.ChatCompletionRequest, defaults: Defaults) -> Body:
    kept = _kept(defaults)
    options = {**kept.get("options", {}), **_options(request.sampling_params, defaults)}
    body: Body = {"model": request.model_id, "truncate": False, **kept, "options": options}
    match request.response_format.WhichOneof("format"):
        case "json_schema":
            body["format"] = to_json(request.response_format.json_schema)
        case "grammar":
            raise Unsupported("Ollama takes a JSON schema, but no grammar")
        case None:
            pass
    if request.HasField("logprobs"):
        body |= {"logprobs": True, "top_logprobs": request.logprobs.top_k}
    return body


def _options(params: pb.SamplingParams, defaults: Defaults) -> Body:
    options: Body = {}
    if most := params.max_tokens or defaults.max_tokens:
        options["num_predict"] = most
    if params.HasField("repetition_penalty"):
        options["repeat_penalty"] = params.repetition_penalty
    if params.stop:
        options["stop"] = list(params.stop)
    if params.HasField("seed"):
        options["seed"] = params.seed
    return {**options, **_choice(params)}


def _choice(params: pb.SamplingParams) -> Body:
    """How the next token is chosen.

    Ollama takes one of the 40 likeliest that add up to 0.9 unless it is told otherwise: a strategy rules the other out.
    """
    if params.strategy == _Strategy.SAMPLING_STRATEGY_GREEDY:
        return {"temperature": 0.0}
    chosen: Body = {}
    if params.HasField("temperature"):
        chosen["temperature"] = params.temperature
    if params.strategy == _Strategy.SAMPLING_STRATEGY_TOP_K:
        chosen["top_p"] = 1.0
    elif params.HasField("top_p"):
        chosen["top_p"] = params.top_p
    if params.strategy == _Strategy.SAMPLING_STRATEGY_TOP_P:
        chosen["top_k"] = 0
    elif params.HasField("top_k"):
        chosen["top_k"] = params.top_k
    return chosen


def _check_tool_choice(request: pb.ChatCompletionRequest) -> None:
    if request.HasField("required_tool") or request.tool_choice == _Choice.TOOL_CHOICE_REQUIRED:
        raise Unsupported("Ollama leaves it to the model whether a tool is called: tool_choice can be AUTO or NONE")


_ROLES: Final[Mapping[str | None, str]] = {
    "system": "system",
    "user": "user",
    "completion": "assistant",
    "tool_response": "tool",
}


def _message(message: content_pb2.Message, names: Mapping[str, str]) -> Body:
    kind = message.WhichOneof("message")
    if kind is None:
        raise InvalidField("messages", "has a message without a role")
    said = _read_first(message.user) if kind == "user" else texts.spoken(message)
    body: Body = {"role": _ROLES[kind], "content": texts.plain(said)}
    if texts.has_image(said):
        body["images"] = [_encoded(item.image) for item in said.items if item.HasField("image")]
    if kind == "completion" and message.completion.tool_calls:
        body["tool_calls"] = [_call(call) for call in message.completion.tool_calls]
    if kind == "tool_response":  # models are told the name, by newer versions the id
        call_id = message.tool_response.call_id
        name = names.get(call_id) or tools.name_of(message.tool_response.tool_name)
        body |= {"tool_name": name, "tool_call_id": call_id}
    return body


def _read_first(user: content_pb2.UserMessage) -> content_pb2.Content:
    """What the user says, after the text that is to be read before it."""
    if not user.context.items:
        return user.content
    between = content_pb2.ContentItem(text="\n\n")
    return content_pb2.Content(items=[*user.context.items, between, *user.content.items])


def _names(messages: Sequence[content_pb2.Message]) -> Mapping[str, str]:
    """The tool of each call, by the call's id."""
    calls = [call for message in messages for call in message.completion.tool_calls]
    return {call.call_id: tools.name_of(call.tool_name) for call in calls}


def _call(call: content_pb2.ToolCall) -> Body:
    function = {"name": tools.name_of(call.tool_name), "arguments": to_json(call.arguments)}
    return {"id": call.call_id, "function": function}


def _tool(tool: content_pb2.ToolDefinition) -> Body:
    function: Body = {"name": tools.name_of(tool.tool_name), "parameters": tools.schema(tool)}
    if tool.HasField("description"):
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _encoded(image: content_pb2.Image) -> str:
    return base64.b64encode(images.by_value(image, "Ollama")).decode()


def _text_only(content: content_pb2.Content, what: str) -> str:
    if texts.has_image(content):
        raise Unsupported(f"Ollama makes no {what} of an image")
    return texts.plain(content)
