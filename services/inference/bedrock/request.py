"""Requests as Converse takes them (https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html).

The service model that botocore carries, bedrock-runtime/2023-09-30, has every field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from services.inference import images, texts, tools
from services.inference.bedrock.families import own_fields
from services.inference.values import to_json
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]
_Choice = content_pb2.ToolChoice
_Strategy = pb.SamplingStrategy
_CALL_ID: Final = re.compile(r"[a-zA-Z0-9_.:-]{1,64}")


def chat(request: pb.ChatCompletionRequest, model: str, max_tokens: int | None) -> Body:
    """The parameters of Converse and ConverseStream.

    `model` is the id of the model that `request.model_id` stands for, as far as it is known; `max_tokens` is for
    requests that set none.
    """
    check_logprobs(request)
    config = tool_config(request)
    body: Body = {
        "modelId": request.model_id,
        "messages": merged(_spoken(request.messages, told=config is None)),
    }
    if system := [block for message in request.messages for block in _system(message)]:
        body["system"] = system
    if config is not None:
        body["toolConfig"] = config
    inference, own = _sampling(request.sampling_params, model, max_tokens)
    if inference:
        body["inferenceConfig"] = inference
    if own:
        body["additionalModelRequestFields"] = own
    if shape := _format(request.response_format):
        body["outputConfig"] = shape
    return body


def check_logprobs(request: pb.CompletionRequest | pb.ChatCompletionRequest) -> None:
    """Raises Unsupported if they are asked for."""
    if request.HasField("logprobs"):
        raise Unsupported("Bedrock tells no probabilities (logprobs) of tokens")


def check_sampling(params: pb.SamplingParams) -> None:
    """Raises Unsupported for what no model on Bedrock has."""
    if params.HasField("repetition_penalty") and params.repetition_penalty != 1:
        raise Unsupported("no model on Bedrock has a repetition_penalty")


def _sampling(params: pb.SamplingParams, model: str, max_tokens: int | None) -> tuple[Body, Body]:
    """inferenceConfig, and what only this model understands."""
    check_sampling(params)
    config: Body = {}
    if most := params.max_tokens or max_tokens:
        config["maxTokens"] = most
    if params.stop:
        config["stopSequences"] = list(params.stop)
    seed = params.seed if params.HasField("seed") else None
    if params.strategy == _Strategy.SAMPLING_STRATEGY_GREEDY:
        return {**config, "temperature": 0.0}, own_fields(model, None, seed)
    config |= temperatures(params, "topP")
    wanted = params.top_k if params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_P else 0
    return config, own_fields(model, wanted or None, seed)


def temperatures(params: pb.SamplingParams, top_p: str) -> Body:
    """How freely the next token is chosen, as far as the request says; `top_p` is what that is called."""
    body: Body = {}
    if params.HasField("temperature"):
        body["temperature"] = params.temperature
    if params.HasField("top_p") and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_K:
        body[top_p] = params.top_p
    return body


def _format(wanted: pb.ResponseFormat) -> Body | None:
    match wanted.WhichOneof("format"):
        case "json_schema":
            schema = json.dumps(to_json(wanted.json_schema), ensure_ascii=False)
            definition = {"name": "response", "schema": schema}
            return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}
        case "grammar":
            raise Unsupported("Bedrock knows JSON schemas, but no grammars")
        case None:
            return None


# Tools


def tool_config(request: pb.ChatCompletionRequest) -> Body | None:
    """What `toolConfig` says. None: the model is told of no tools.

    Converse has no choice "none". A request that rules all tools out, or gives none, goes without toolConfig; the calls
    and results that its messages have, which Converse takes beside a toolConfig only, are then told as text.
    """
    if not request.tools or request.tool_choice == _Choice.TOOL_CHOICE_NONE:
        return None
    config: Body = {"tools": [{"toolSpec": _tool(tool)} for tool in request.tools]}
    if request.HasField("required_tool"):
        config["toolChoice"] = {"tool": {"name": tools.name_of(request.required_tool)}}
    elif request.tool_choice == _Choice.TOOL_CHOICE_REQUIRED:
        config["toolChoice"] = {"any": {}}
    return config  # auto is the default, and to say it is an error at models that know no choice


def _tool(tool: content_pb2.ToolDefinition) -> Body:
    spec: Body = {"name": tools.name_of(tool.tool_name), "inputSchema": {"json": tools.schema(tool)}}
    if tool.description:
        spec["description"] = tool.description
    return spec


def _call(call: content_pb2.ToolCall, *, told: bool) -> Body:
    name, arguments = tools.name_of(call.tool_name), to_json(call.arguments)
    if told:
        written = json.dumps(arguments, ensure_ascii=False, sort_keys=True)  # a Struct has no order of its own
        return {"text": f"[call of the tool {name}: {written}]"}
    return {"toolUse": {"toolUseId": _call_id(call.call_id), "name": name, "input": arguments}}


def _result(said: content_pb2.ToolResponseMessage, *, told: bool) -> Sequence[Body]:
    if told:
        return [
            {"text": f"[result of the tool {tools.name_of(said.tool_name)}: {texts.plain(said.content)}]"},
            *(_block(item) for item in said.content.items if item.HasField("image")),
        ]
    content = [_block(item) for item in said.content.items]
    return [{"toolResult": {"toolUseId": _call_id(said.call_id), "content": content}}]


def _call_id(call_id: str) -> str:
    """Another backend may have made it, of characters that Bedrock does not take."""
    if _CALL_ID.fullmatch(call_id):
        return call_id
    return f"call-{hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


# Messages


def merged(messages: Iterable[tuple[str, Sequence[Body]]]) -> Sequence[Body]:
    """Roles have to alternate, and all results of one answer's calls to be in one message."""
    found: list[Body] = []
    for role, blocks in messages:
        if found and found[-1]["role"] == role:
            found[-1]["content"].extend(blocks)
        elif blocks:
            found.append({"role": role, "content": list(blocks)})
    return found


def _system(message: content_pb2.Message) -> Sequence[Body]:
    if not message.HasField("system"):
        return ()
    if texts.has_image(message.system.content):
        raise Unsupported("Bedrock takes no image in a system message")
    return _said(message.system.content.items)


def _spoken(messages: Iterable[content_pb2.Message], *, told: bool) -> Iterable[tuple[str, Sequence[Body]]]:
    for message in messages:
        match message.WhichOneof("message"):
            case "user":
                yield "user", _user(message.user)
            case "completion":
                calls = [_call(call, told=told) for call in message.completion.tool_calls]
                yield "assistant", [*_said(message.completion.content.items), *calls]
            case "tool_response":
                yield "user", _result(message.tool_response, told=told)
            case "system":
                pass
            case None:
                raise InvalidField("messages", "has a message without a role")


def _user(user: content_pb2.UserMessage) -> Sequence[Body]:
    return [*_said(user.context.items), *_said(user.content.items)]


def _said(items: Iterable[content_pb2.ContentItem]) -> Sequence[Body]:
    """Blocks without the blank ones, which Bedrock refuses."""
    return [_block(item) for item in items if item.HasField("image") or item.text.strip()]


def _block(item: content_pb2.ContentItem) -> Body:
    if not item.HasField("image"):
        return {"text": item.text}
    data = images.by_value(item.image, "Bedrock")
    kind = images.mime_type(data).removeprefix("image/")
    return {"image": {"format": kind, "source": {"bytes": data}}}
