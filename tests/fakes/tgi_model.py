"""A ToyModel behind text-generation-inference: what TGI makes of a request, and of what the model says.

As TGI does it (3.3.7), strange as it may be: a stop sequence is part of the text, and stops only at its end; the last
token may be special; tools are a grammar of one call; pictures are Markdown.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.fakes.toy_model import Asked, BadGrammar, BadSchema, Call, Said, Token, TooLong, ToyModel

Body = Mapping[str, Any]
EOS = "<|eot_id|>"
STOPS, TOP_TOKENS = 4, 5
"""MAX_STOP_SEQUENCES and MAX_TOP_N_TOKENS, unless the launcher is told otherwise."""


class Invalid(Exception):
    """A validation error, by its text."""


class Failed(Exception):
    """A failure during generation, by its text."""


@dataclass(frozen=True)
class Generated:
    tokens: Sequence[Body]
    """{id, text, logprob, special}"""
    top_tokens: Sequence[Sequence[Body]]
    finish_reason: str
    input_length: int
    call: Call | None = None
    """That is what the text says."""

    @property
    def text(self) -> str:
        return "".join(token["text"] for token in self.tokens if not token["special"])

    @property
    def details(self) -> Body:
        """Those at the end of a stream."""
        counted = {"generated_tokens": len(self.tokens), "input_length": self.input_length}
        return {"finish_reason": self.finish_reason, **counted, "seed": None}


def prompt(body: Body, model: str) -> Asked:
    """The request of /generate."""
    parameters: Body = body.get("parameters") or {}
    _check(parameters)
    if not body["inputs"]:
        raise Invalid("`inputs` cannot be empty")
    warped = any(parameters.get(name) is not None for name in ("temperature", "top_k", "top_p", "typical_p"))
    sampled = parameters.get("do_sample") or warped
    return Asked(
        model=model,
        messages=[Said("prompt", body["inputs"])],
        max_tokens=parameters.get("max_new_tokens"),
        stop=parameters.get("stop") or (),
        seed=parameters.get("seed"),
        temperature=(parameters.get("temperature") or 1.0) if sampled else 0,
        logprobs=parameters.get("top_n_tokens") or 0,
        **_shape(parameters.get("grammar")),
    )


def conversation(body: Body, model: str) -> Asked:
    """The request of the messages API."""
    tools, wanted = body.get("tools"), body.get("response_format")
    if tools is not None and wanted is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    choice = body.get("tool_choice") or "auto"
    choice = choice if isinstance(choice, str) else choice["function"]["name"]
    offered = {tool["function"]["name"]: _parameters(tool["function"]) for tool in tools or ()}
    if choice not in ("auto", "none", "required", *offered):
        raise ToolError(f"Tool with name {choice} not found")
    temperature = body.get("temperature")
    _check(
        {
            "temperature": temperature or None,
            "top_p": body.get("top_p"),
            "top_n_tokens": body.get("top_logprobs"),
            "max_new_tokens": body.get("max_tokens"),
            "stop": body.get("stop"),
        }
    )
    return Asked(
        model=model,
        messages=[_said(message) for message in body["messages"]],
        tools=offered,
        tool_choice=choice,
        max_tokens=body.get("max_tokens"),
        stop=body.get("stop") or (),
        seed=body.get("seed"),
        temperature=temperature,
        logprobs=body.get("top_logprobs") or 0,
        **_shape(wanted),
    )


class ToolError(Exception):
    """A tool error, by its text."""


def generate(model: ToyModel, asked: Asked) -> Generated:
    """What the model says to that. Raises Invalid or Failed."""
    try:
        answer = model.answer(replace(asked, stop=()))
    except TooLong as error:
        raise Invalid(over(error.prompt_tokens, asked.max_tokens or 0, error.context_tokens)) from None
    except BadSchema as error:
        raise Invalid(f"grammar is not valid: {error} is not valid under any of the schemas") from None
    except BadGrammar:
        raise Failed("Server error: this regular expression is beyond a toy model") from None
    total = answer.prompt_tokens + (asked.max_tokens or 0)
    if total > model.context_tokens:
        raise Invalid(over(answer.prompt_tokens, asked.max_tokens or 0, model.context_tokens))
    call = answer.calls[0] if answer.calls else None
    said = answer.tokens if call is None else _written(call)
    tokens, reason = _ended(said, asked)
    return Generated(
        tokens=[_token(token) for token in tokens],
        top_tokens=[list(_likeliest(token, asked.logprobs or 0)) for token in tokens],
        finish_reason=reason,
        input_length=answer.prompt_tokens,
        call=call,
    )


def over(inputs: int, new: int, most: int) -> str:
    return (
        f"`inputs` tokens + `max_new_tokens` must be <= {most}. "
        f"Given: {inputs} `inputs` tokens and {new} `max_new_tokens`"
    )


def _ended(said: Sequence[Token], asked: Asked) -> tuple[Sequence[Token], str]:
    """The tokens up to where TGI stops, and why it does."""
    text = ""
    for count, token in enumerate(said, 1):
        text += token.text
        if count == asked.max_tokens:
            return said[:count], "length"
        if any(re.search(re.escape(stop) + "$", text) for stop in asked.stop):
            return said[:count], "stop_sequence"
    return [*said, Token(EOS, {EOS: -0.01})], "eos_token"


def _written(call: Call) -> Sequence[Token]:
    """A call as the grammar of tools lets it be written, a few characters a token."""
    text = json.dumps({"function": {"_name": call.name, **call.arguments}}, ensure_ascii=False)
    return [Token(text[at : at + 3], {text[at : at + 3]: -0.1}) for at in range(0, len(text), 3)]


def _token(token: Token) -> Body:
    return {
        "id": sum(token.text.encode()),
        "text": token.text,
        "logprob": next(iter(token.logprobs.values()), -0.1),
        "special": token.text == EOS,
    }


def _likeliest(token: Token, count: int) -> Iterator[Body]:
    for text, logprob in [*token.logprobs.items()][:count]:
        yield {"id": sum(text.encode()), "text": text, "logprob": logprob, "special": text == EOS}


def _check(parameters: Body) -> None:
    def given(name: str) -> Any:
        return parameters.get(name)

    if given("temperature") is not None and given("temperature") <= 0:
        raise Invalid("`temperature` must be strictly positive")
    if given("repetition_penalty") is not None and given("repetition_penalty") <= 0:
        raise Invalid("`repetition_penalty` must be strictly positive")
    for name in ("top_p", "typical_p"):
        if given(name) is not None and not 0 < given(name) < 1:
            raise Invalid(f"`{name}` must be > 0.0 and < 1.0")
    if given("top_k") is not None and given("top_k") <= 0:
        raise Invalid("`top_k` must be strictly positive")
    if given("max_new_tokens") == 0:
        raise Invalid("`max_new_tokens` must be strictly positive")
    if len(given("stop") or ()) > STOPS:
        raise Invalid(f"`stop` supports up to {STOPS} stop sequences. Given: {len(given('stop'))}")
    if (given("top_n_tokens") or 0) > TOP_TOKENS:
        raise Invalid(f"`top_n_tokens` must be >= 0 and <= {TOP_TOKENS}. Given: {given('top_n_tokens')}")


def _shape(grammar: Body | None) -> Mapping[str, Any]:
    """The schema, or a regular expression that is text, or a choice of texts, as the toy model reads it."""
    match grammar and grammar["type"]:
        case None:
            return {}
        case "regex":
            try:
                re.compile(grammar["value"])
            except re.error as error:
                raise Failed(f"Server error: {error}") from None
            return {"grammar": f'root ::= "{grammar["value"].strip("()").split("|")[0]}"'}
        case "json" | "json_object":
            value = grammar["value"]
            schema = json.loads(value) if isinstance(value, str) else value
        case "json_schema":
            schema = grammar["value"]["schema"]
        case other:
            raise ValueError(f"unknown variant `{other}`, expected one of `json`, `regex`, `json_schema`")
    if "properties" not in schema and schema.get("type") in ("object", None):
        raise Invalid("grammar is not valid: Grammar must have a 'properties' field")
    return {"schema": schema}


def _parameters(function: Body) -> Body:
    return function["parameters"] if "parameters" in function else function["arguments"]


_PICTURE = re.compile(r"!\[\]\(([^)]*)\)")


def _said(message: Body) -> Said:
    role, content, calls = message["role"], message.get("content"), message.get("tool_calls")
    if isinstance(content, str):
        written = content
    elif content is not None:
        written = "".join(_chunk(chunk) for chunk in content)
    elif calls is not None:
        made = [Call(c["function"]["name"], _arguments(c["function"]), c["id"]) for c in calls]
        return Said(role, "", calls=made)
    else:
        raise ValueError("data did not match any variant of untagged enum MessageBody")
    images = [_image(url) for url in _PICTURE.findall(written)]
    return Said(role, _PICTURE.sub("", written), images, answers=message.get("tool_call_id", ""))


def _chunk(chunk: Body) -> str:
    return chunk["text"] if chunk["type"] == "text" else f"![]({chunk['image_url']['url']})"


def _image(url: str) -> bytes | str:
    head, _, encoded = url.partition(";base64,")
    return base64.b64decode(encoded, validate=True) if encoded and head.startswith("data:image/") else url


def _arguments(function: Body) -> Body:
    """TGI writes them into the prompt as JSON, so that text is quoted twice."""
    if not isinstance(function["arguments"], dict):
        raise Invalid("the model is told of arguments that are text")
    return function["arguments"]
