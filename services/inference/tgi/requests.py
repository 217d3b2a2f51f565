"""Requests as TGI reads them: bodies for /generate_stream and for its messages API.

The messages API has no parameter for everything: what it would ignore in silence is Unsupported. A grammar is a regular
expression, the only notation that TGI has beside JSON schemas.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from services.inference import texts
from services.inference.openai import request as openai
from services.inference.values import to_json
from stackmesh.errors import InvalidField, Unsupported
from stackmesh.inference.v1 import inference_service_pb2 as pb

Body = dict[str, Any]
_Strategy = pb.SamplingStrategy

MODEL: Final = "tgi"
"""What TGI calls its model, whichever it is. Any other name would be taken for that of a LoRA adapter."""
_CHECKED: Final = 2048
"""Characters of a regular expression, each of which takes some 2 us. The event loop waits meanwhile."""


def completion(request: pb.CompletionRequest, max_tokens: int | None) -> Body:
    """The body for /generate_stream."""
    if texts.has_image(request.content):
        raise Unsupported("a text completion takes no image; a chat may, if the model sees")
    parameters: Body = {"details": True, "return_full_text": False, **_sampling(request.sampling_params, max_tokens)}
    if (grammar := _grammar(request.response_format)) is not None:
        parameters["grammar"] = grammar
    if request.logprobs.top_k:
        parameters["top_n_tokens"] = request.logprobs.top_k
    return {"inputs": texts.plain(request.content), "parameters": parameters}


def chat(request: pb.ChatCompletionRequest, max_tokens: int | None) -> Body:
    """The body for /v1/chat/completions, streamed."""
    grammar = _grammar(request.response_format)
    if grammar is not None and request.tools:
        raise Unsupported("TGI takes tools or a response_format, not both")
    body = openai.chat(request, openai.Dialect(max_tokens, lambda _: {}))
    body |= {"model": MODEL, "messages": [*_messages(body["messages"])]}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    if grammar is not None:
        body["response_format"] = grammar
    if body.pop("repetition_penalty", 1.0) != 1.0:
        raise Unsupported("TGI's chats have no repetition_penalty; its completions do")
    if body.pop("top_k", 0):
        raise Unsupported("TGI's chats have no top_k; its completions do")
    if body.get("top_p") == 1.0:
        del body["top_p"]  # it takes less than 1 only
    return body


def for_counting(body: Mapping[str, Any]) -> tuple[str, Body]:
    """The path and the body that ask how many tokens the prompt of a request has."""
    if "inputs" in body:
        return "/tokenize", {"inputs": body["inputs"]}
    return "/chat_tokenize", {"model": body["model"], "messages": body["messages"]}


def counted(answer: Any) -> int:
    """The number in the answer to that; 0 if there is none."""
    tokens: Any = cast("Body", answer).get("tokenize_response") if isinstance(answer, dict) else answer
    return len(cast("list[Any]", tokens)) if isinstance(tokens, list) else 0


def _sampling(params: pb.SamplingParams, max_tokens: int | None) -> Body:
    body: Body = {}
    if most := params.max_tokens or max_tokens:
        body["max_new_tokens"] = most
    if params.HasField("repetition_penalty"):
        body["repetition_penalty"] = params.repetition_penalty
    if params.stop:
        body["stop"] = list(params.stop)
    if params.HasField("seed"):
        body["seed"] = params.seed
    return body | _choosing(params)


def _choosing(params: pb.SamplingParams) -> Body:
    """How the next token is chosen. TGI is greedy where nothing is said, and takes no numbers that change nothing."""
    greedy = params.HasField("temperature") and params.temperature == 0
    if params.strategy == _Strategy.SAMPLING_STRATEGY_GREEDY or greedy:
        return {"do_sample": False}
    body: Body = {}
    if params.HasField("temperature"):
        body["temperature"] = params.temperature
    if params.top_p and params.top_p < 1 and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_K:
        body["top_p"] = params.top_p
    if params.top_k and params.strategy != _Strategy.SAMPLING_STRATEGY_TOP_P:
        body["top_k"] = params.top_k
    return {"do_sample": True, **body} if body or params.strategy else body


def _grammar(wanted: pb.ResponseFormat) -> Body | None:
    match wanted.WhichOneof("format"):
        case "json_schema":
            return {"type": "json", "value": to_json(wanted.json_schema)}
        case "grammar":
            return {"type": "regex", "value": _regex(wanted.grammar)}
        case None:
            return None


def _regex(grammar: str) -> str:
    """TGI itself would notice when it generates, and call that a failure of its own."""
    if len(grammar) > _CHECKED:
        return grammar
    try:
        with warnings.catch_warnings():  # of what Python may read in another way one day
            warnings.simplefilter("ignore")
            re.compile(grammar)
    except (re.error, RecursionError, OverflowError):
        raise InvalidField(
            "response_format.grammar", "is no regular expression, which is what TGI takes for a grammar"
        ) from None
    return grammar


def _messages(messages: Sequence[Body]) -> Iterator[Body]:
    """As TGI reads them: an assistant's message holds words or calls, not both."""
    for message in messages:
        content: str | list[Body] | None = message.get("content")
        if calls := message.get("tool_calls"):
            if content:
                yield {"role": "assistant", "content": content}
            yield {"role": "assistant", "tool_calls": [_call(call) for call in calls]}
        else:
            yield {**message, "content": list(map(_part, content))} if isinstance(content, list) else message


def _call(call: Body) -> Body:
    """TGI writes the arguments of a call into the prompt as JSON: text would be quoted a second time."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}


def _part(part: Body) -> Mapping[str, Any]:
    """TGI makes Markdown of a picture, which ends at the first bracket."""
    if part["type"] != "image_url":
        return part
    return {**part, "image_url": {"url": part["image_url"]["url"].replace(")", "%29")}}
