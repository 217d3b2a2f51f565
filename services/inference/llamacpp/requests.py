"""Our requests as the bodies that llama.cpp reads; the README of its server lists the fields.

What the model cannot do raises Unsupported.
"""

from __future__ import annotations

import json
from typing import Any, Final

from services.inference import texts
from services.inference.llamacpp.templates import CALL_BEGINS, CALL_ENDS
from services.inference.openai import request as openai
from services.inference.values import to_json
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]
_Choice = content_pb2.ToolChoice

_LONGEST_TOKEN: Final = 256
"""Characters; no vocabulary has longer ones. A text over the context is refused without tokenizing 15 MiB for 9 s."""
_SEED_LIMIT: Final = 2**32 - 2  # llama.cpp takes one more to mean a random seed
_STREAM: Final[Body] = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True}
"""`return_progress`: without it nothing is said, and so nothing can be stopped, while a prompt is read."""


def completion_body(request: pb.CompletionRequest, context_tokens: int) -> Body:
    prompt = text_of("content", request.content)
    check_length("content", len(prompt), context_tokens)
    body: Body = {"prompt": prompt, **_STREAM, **_generation(request)}
    if request.HasField("logprobs"):
        body["logprobs"] = max(1, request.logprobs.top_k)
    return body


def chat_body(request: pb.ChatCompletionRequest, context_tokens: int, *, taught: bool = False) -> Body:
    """`taught`: the model's chat template knows tools by tools.jinja only."""
    for index, message in enumerate(request.messages):
        _check_text(f"messages[{index}]", message)
    messages = [openai.message(message) for message in request.messages]
    check_length("messages", sum(map(_length, messages)), context_tokens)
    body: Body = {"messages": messages, **_STREAM, **_generation(request)}
    if request.HasField("logprobs"):
        body |= {"logprobs": True, "top_logprobs": max(1, request.logprobs.top_k)}
    if request.tools:
        offered = _offered(request)
        check_length("tools", len(json.dumps(offered)), context_tokens)
        body |= offered
        if taught and must_call(request):
            _begin_call(body)
    return body


def must_call(request: pb.ChatCompletionRequest) -> bool:
    """Whether the model has to call a tool."""
    return request.HasField("required_tool") or request.tool_choice == _Choice.TOOL_CHOICE_REQUIRED


def _offered(request: pb.ChatCompletionRequest) -> Body:
    """The tools. llama.cpp takes no name for a choice, so the one that has to be called is then the only one."""
    if request.HasField("logprobs"):
        raise Unsupported("logprobs: llama.cpp reports none beside tools")
    none = request.tool_choice == _Choice.TOOL_CHOICE_NONE
    if request.response_format.WhichOneof("format") and not none:
        raise Unsupported("response_format: llama.cpp calls tools or keeps text to a format; not both in one answer")
    choice = "required" if must_call(request) else "none" if none else "auto"
    if not request.HasField("required_tool"):
        return {"tools": [openai.tool(tool) for tool in request.tools], "tool_choice": choice}
    [wanted] = [tool for tool in request.tools if tool.tool_name == request.required_tool][:1]
    return {"tools": [openai.tool(wanted)], "tool_choice": choice, "parallel_tool_calls": False}


def _begin_call(body: Body) -> None:
    """Have the answer begin with a call, and end with it.

    A grammar of llama.cpp's leaves a model that has to call free to talk first, and to call again after; a small one
    that was never trained on tools does so to the end of its context.
    """
    body["messages"].append({"role": "assistant", "content": CALL_BEGINS})
    body["stop"] = [*body.get("stop", ()), CALL_ENDS]


def json_schema(response_format: pb.ResponseFormat) -> Body | None:
    """The JSON schema that was asked for."""
    return to_json(response_format.json_schema) if response_format.HasField("json_schema") else None


def text_of(field: str, content: content_pb2.Content) -> str:
    if texts.has_image(content):
        raise Unsupported(f"{field}: this model reads text only, not images")
    return texts.plain(content)


def check_length(field: str, length: int, context_tokens: int) -> None:
    if length > context_tokens * _LONGEST_TOKEN:
        raise InvalidField(
            field, f"is {length} characters long, far over the {context_tokens} tokens of the model's context"
        )


def _check_text(field: str, message: content_pb2.Message) -> None:
    field = f"{field}.{message.WhichOneof('message')}"
    text_of(f"{field}.content", texts.spoken(message))
    text_of(f"{field}.context", message.user.context)


def _length(message: Body) -> int:
    """In characters, its calls' arguments included."""
    calls = message.get("tool_calls", ())
    return len(message["content"] or "") + sum(len(call["function"]["arguments"]) for call in calls)


_NAMES: Final = (
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("repetition_penalty", "repeat_penalty"),
)
_STRATEGIES: Final[dict[pb.SamplingStrategy.ValueType, Body]] = {
    pb.SamplingStrategy.SAMPLING_STRATEGY_GREEDY: {"temperature": 0.0},
    pb.SamplingStrategy.SAMPLING_STRATEGY_TOP_P: {"top_k": 0, "min_p": 0.0},
    pb.SamplingStrategy.SAMPLING_STRATEGY_TOP_K: {"top_p": 1.0, "min_p": 0.0},
}
"""What a strategy rules out. What neither it nor the caller says is llama.cpp's choice."""


def _generation(request: pb.CompletionRequest | pb.ChatCompletionRequest) -> Body:
    params = request.sampling_params
    body: Body = {
        theirs: getattr(params, ours)
        for ours, theirs in _NAMES
        if params.HasField(ours)  # pyright: ignore[reportArgumentType] -- one of the literals it wants
    }
    body |= _STRATEGIES.get(params.strategy, {})
    if params.max_tokens:
        body["max_tokens"] = params.max_tokens
    if params.stop:
        body["stop"] = list(params.stop)
    if params.HasField("seed"):
        # With part of the prompt cached the rest is computed in other batches, which rounds differently.
        body |= {"seed": min(params.seed, _SEED_LIMIT), "cache_prompt": False}
    if request.response_format.HasField("grammar"):
        body["grammar"] = _gbnf(request.response_format.grammar)
    return body


def _gbnf(grammar: str) -> str:
    if not grammar.strip():
        raise InvalidField("response_format.grammar", "is empty")
    if grammar.lstrip().startswith("%llguidance"):  # llama.cpp silently ignores mistakes in these
        raise InvalidField("response_format.grammar", "is not GBNF")
    return grammar
