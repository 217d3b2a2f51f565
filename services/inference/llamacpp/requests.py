"""Our requests as the bodies that llama.cpp reads; the README of its server lists the fields.

What the model cannot do raises Unsupported.
"""

from __future__ import annotations

from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict

from services.inference import texts
from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]

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


def chat_body(request: pb.ChatCompletionRequest, context_tokens: int) -> Body:
    messages = [_message(index, message) for index, message in enumerate(request.messages)]
    if request.tools:
        raise Unsupported("tools: the chat template of this model does not know them")
    check_length("messages", sum(len(message["content"]) for message in messages), context_tokens)
    body: Body = {"messages": messages, **_STREAM, **_generation(request)}
    if request.HasField("logprobs"):
        body |= {"logprobs": True, "top_logprobs": max(1, request.logprobs.top_k)}
    return body


def json_schema(response_format: pb.ResponseFormat) -> Body | None:
    """The JSON schema that was asked for. A Struct knows floats only, llama.cpp wants `minItems: 1`."""
    if not response_format.HasField("json_schema"):
        return None
    return _with_integers(MessageToDict(response_format.json_schema))


def text_of(field: str, content: content_pb2.Content) -> str:
    if texts.has_image(content):
        raise Unsupported(f"{field}: this model reads text only, not images")
    return texts.plain(content)


def check_length(field: str, length: int, context_tokens: int) -> None:
    if length > context_tokens * _LONGEST_TOKEN:
        raise InvalidField(
            field, f"is {length} characters long, far over the {context_tokens} tokens of the model's context"
        )


def _message(index: int, message: content_pb2.Message) -> Body:
    role = message.WhichOneof("message")
    field = f"messages[{index}].{role}"
    if role == "tool_response" or message.completion.tool_calls:
        raise Unsupported(f"{field}: the chat template of this model does not know tools")
    said = text_of(f"{field}.content", texts.spoken(message))
    if message.user.HasField("context"):
        said = f"{text_of(f'{field}.context', message.user.context)}\n\n{said}"
    return {"role": "assistant" if role == "completion" else role, "content": said}


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


def _with_integers(node: Any) -> Any:
    match node:
        case dict():
            return {key: _with_integers(value) for key, value in cast("Body", node).items()}
        case list():
            return [_with_integers(value) for value in cast("list[Any]", node)]
        case float() if node.is_integer():
            return int(node)
        case _:
            return node
