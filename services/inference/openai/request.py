"""Requests as bodies of the OpenAI dialect (https://platform.openai.com/docs/api-reference).

Beyond OpenAI's own parameters, `top_k` and `repetition_penalty` are named as vLLM, TGI and the hosted servers of open
models name them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.inference import images, texts, tools
from services.inference.values import to_json
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]
_Strategy = pb.SamplingStrategy


@dataclass(frozen=True, slots=True)
class Dialect:
    """What servers do in their own ways, and what is taken when a request leaves it open."""

    max_tokens: int | None
    """For requests that set none. None: up to the context."""
    grammar: Callable[[str], Mapping[str, Any]]
    """The parameters that make the text follow a grammar. Raises Unsupported where there are none."""
    chat_logprobs: Callable[[int], Mapping[str, Any]] = lambda top: {"logprobs": True, "top_logprobs": top}
    """The parameters that ask for the probabilities of a chat's tokens, and of so many of the likeliest."""
    least_logprobs: int = 0
    """The fewest of the likeliest tokens to ask for, where 0 would mean no probabilities at all."""
    without_limit: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The parameters of a chat that sets no `max_tokens`, where leaving it out would mean one."""
    usage_unasked: bool = False
    """Streams end with what was used without being asked, and asking would be refused."""
    formatted_completions: bool = True
    """/completions takes a response format, too."""
    most_stops: int | None = None
    """Stop sequences of a request. None: as many as anybody may send."""
    most_logprobs: int | None = None
    """The likeliest tokens at a position, likewise."""
    most_images: int | None = None
    """Pictures of a request, likewise."""


def completion(request: pb.CompletionRequest, dialect: Dialect) -> Body:
    """The body for /completions."""
    _check_limits(request, dialect)
    if not dialect.formatted_completions and request.HasField("response_format"):
        raise Unsupported("this backend gives a format to chats only, not to completions of plain text")
    body: Body = {
        "model": request.model_id,
        "prompt": _text_only(request.content, "text completion"),
        "max_tokens": None,  # said aloud: left out, it would be 16
        **_sampling(request.sampling_params, dialect),
        **_format(request, dialect),
    }
    if request.HasField("logprobs"):
        body["logprobs"] = max(request.logprobs.top_k, dialect.least_logprobs)
    return body


def chat(request: pb.ChatCompletionRequest, dialect: Dialect) -> Body:
    """The body for /chat/completions."""
    _check_limits(request, dialect)
    messages = [message(each) for each in request.messages]
    _check_limit("images", sum(map(_images, messages)), dialect.most_images)
    body: Body = {
        "model": request.model_id,
        "messages": messages,
        **dialect.without_limit,
        **_sampling(request.sampling_params, dialect),
        **_format(request, dialect),
    }
    if request.tools:
        body["tools"] = [tool(each) for each in request.tools]
        body["tool_choice"] = _tool_choice(request)
    if request.HasField("logprobs"):
        body |= dialect.chat_logprobs(max(request.logprobs.top_k, dialect.least_logprobs))
    return body


def embeddings(request: pb.EmbeddingsRequest) -> Body:
    """The body for /embeddings."""
    return {
        "model": request.model_id,
        "input": [_text_only(content, "embedding") for content in request.contents],
        "encoding_format": "float",
    }


def streamed(body: Body, dialect: Dialect) -> Body:
    """The same request, answered as a stream that ends with what was used."""
    options = {} if dialect.usage_unasked else {"stream_options": {"include_usage": True}}
    return {**body, "stream": True, **options}


def _check_limits(request: pb.CompletionRequest | pb.ChatCompletionRequest, dialect: Dialect) -> None:
    _check_limit("stop sequences", len(request.sampling_params.stop), dialect.most_stops)
    _check_limit("of the likeliest tokens (logprobs.top_k)", request.logprobs.top_k, dialect.most_logprobs)


def _check_limit(what: str, wanted: int, most: int | None) -> None:
    if most is not None and wanted > most:
        raise Unsupported(f"this backend takes at most {most} {what}, these are {wanted}")


def _sampling(params: pb.SamplingParams, dialect: Dialect) -> Body:
    body: Body = {}
    if most := params.max_tokens or dialect.max_tokens:
        body["max_tokens"] = most
    if params.HasField("repetition_penalty"):
        body["repetition_penalty"] = params.repetition_penalty
    if params.stop:
        body["stop"] = list(params.stop)
    if params.HasField("seed"):
        body["seed"] = params.seed
    if params.strategy == _Strategy.SAMPLING_STRATEGY_GREEDY:
        return {**body, "temperature": 0.0}
    if params.HasField("temperature"):
        body["temperature"] = params.temperature
    if params.HasField("top_p") and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_K:
        body["top_p"] = params.top_p
    if params.HasField("top_k") and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_P:
        body["top_k"] = params.top_k
    return body


def _format(request: pb.CompletionRequest | pb.ChatCompletionRequest, dialect: Dialect) -> Mapping[str, Any]:
    match request.response_format.WhichOneof("format"):
        case "json_schema":
            schema = to_json(request.response_format.json_schema)
            named = {"name": "response", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": named}}
        case "grammar":
            return dialect.grammar(request.response_format.grammar)
        case None:
            return {}


def message(said: content_pb2.Message) -> Body:
    """A message of the conversation."""
    match said.WhichOneof("message"):
        case "system":
            return {"role": "system", "content": _content(said.system.content)}
        case "user":
            return {"role": "user", "content": _user_content(said.user)}
        case "completion":
            return _assistant(said.completion)
        case "tool_response":
            result = said.tool_response
            return {"role": "tool", "tool_call_id": result.call_id, "content": _content(result.content)}
        case None:
            raise InvalidField("messages", "has a message without a role")


def _user_content(user: content_pb2.UserMessage) -> str | list[Body]:
    if not user.context.items:
        return _content(user.content)
    between = content_pb2.ContentItem(text="\n\n")
    return _content(content_pb2.Content(items=[*user.context.items, between, *user.content.items]))


def _assistant(said: content_pb2.CompletionMessage) -> Body:
    body: Body = {"role": "assistant", "content": _content(said.content)}
    if said.tool_calls:
        body["content"] = body["content"] or None
        body["tool_calls"] = [_call(call) for call in said.tool_calls]
    return body


def _call(call: content_pb2.ToolCall) -> Body:
    arguments = json.dumps(to_json(call.arguments), ensure_ascii=False)
    return {
        "id": call.call_id,
        "type": "function",
        "function": {"name": tools.name_of(call.tool_name), "arguments": arguments},
    }


_CHOICES: Final = {
    content_pb2.ToolChoice.TOOL_CHOICE_REQUIRED: "required",
    content_pb2.ToolChoice.TOOL_CHOICE_NONE: "none",
}


def _tool_choice(request: pb.ChatCompletionRequest) -> str | Body:
    if request.HasField("required_tool"):
        return {"type": "function", "function": {"name": tools.name_of(request.required_tool)}}
    return _CHOICES.get(request.tool_choice, "auto")


def tool(defined: content_pb2.ToolDefinition) -> Body:
    """A tool that may be called."""
    function: Body = {"name": tools.name_of(defined.tool_name), "parameters": tools.schema(defined)}
    if defined.HasField("description"):
        function["description"] = defined.description
    return {"type": "function", "function": function}


def _content(content: content_pb2.Content) -> str | list[Body]:
    """One string where there is only text: many chat templates take nothing else."""
    if not texts.has_image(content):
        return texts.plain(content)
    return [_part(item) for item in content.items]


def _part(item: content_pb2.ContentItem) -> Body:
    if item.HasField("image"):
        return {"type": "image_url", "image_url": {"url": _image_url(item.image)}}
    return {"type": "text", "text": item.text}


def _images(message: Body) -> int:
    content: Any = message["content"]
    return 0 if content is None or isinstance(content, str) else sum(part["type"] == "image_url" for part in content)


def _image_url(image: content_pb2.Image) -> str:
    if image.HasField("uri"):
        return image.uri
    return f"data:{images.mime_type(image.data)};base64,{base64.b64encode(image.data).decode()}"


def _text_only(content: content_pb2.Content, what: str) -> str:
    if texts.has_image(content):
        raise Unsupported(f"a server of this kind makes no {what} of an image")
    return texts.plain(content)
