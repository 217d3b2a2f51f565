"""What stands behind every fake of a vendor's server: a model without weights that does what it is asked.

It is asked in no vendor's words (`Asked`) and answers in no vendor's words (`Answer`); a fake only translates. What it
says follows from what it is asked alone:

- It calls tools when it has to, and when it may and the last message says "call NAME" or "call NAME and NAME". It calls
  them with what their schema wants, strings being "Oslo".
- It keeps to a JSON schema, and to a grammar whose only rule is one literal: `root ::= "yes"`.
- Whether it sees, it says: a picture is answered with "a picture of N bytes" or "a picture at URL".
- After a tool's result it says "the tool says RESULT".
- "say TEXT" is answered with TEXT.
- To anything else it says syllables, as many as `max_tokens` allows (else 16), others for another seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_USUAL_TOKENS = 16
_VOWELS, _CONSONANTS = "aeiou", "bdfgklmnprst"


@dataclass(frozen=True)
class Call:
    """A tool call. Servers without call ids leave it empty."""

    name: str
    arguments: Mapping[str, Any]
    call_id: str = ""


@dataclass(frozen=True)
class Said:
    """One message of a conversation."""

    role: str
    """system, user, assistant or tool; prompt for a completion's text."""
    text: str = ""
    images: Sequence[bytes | str] = ()
    """By value, or by URL."""
    calls: Sequence[Call] = ()
    answers: str = ""
    """The call id that a tool message answers, or the tool's name where there are no ids."""


@dataclass(frozen=True)
class Asked:
    """A request, as far as a model is concerned."""

    model: str
    messages: Sequence[Said]
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """JSON schemas of their parameters, by name."""
    tool_choice: str = "auto"
    """auto, required, none, or the name of the tool that has to be called."""
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    temperature: float | None = None
    logprobs: int | None = None
    """How many of the likeliest tokens; None: no probabilities."""


@dataclass(frozen=True)
class Token:
    text: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """The chosen one first."""


@dataclass(frozen=True)
class Answer:
    tokens: Sequence[Token]
    """What is said: never part of a stop sequence."""
    calls: Sequence[Call]
    finish: str
    """stop, length or tool_calls."""
    prompt_tokens: int
    completion_tokens: int

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)


class TooLong(Exception):
    """The prompt is over the context."""

    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(prompt_tokens, context_tokens)
        self.prompt_tokens, self.context_tokens = prompt_tokens, context_tokens


class BadGrammar(Exception):
    """It is no grammar."""


class BadSchema(Exception):
    """It is no JSON schema."""


class ToyModel:
    def __init__(self, *, context_tokens: int = 512, calls_have_ids: bool = True) -> None:
        self.context_tokens = context_tokens
        self.token_seconds = 0.0005
        """Between two tokens; 40 times that in a "very long" story."""
        self._calls_have_ids = calls_have_ids

    def seconds_between_tokens(self, asked: Asked) -> float:
        slow = re.search("very long|Once upon", asked.messages[-1].text)
        return self.token_seconds * (40 if slow else 1)

    def seconds_to_read(self, asked: Asked) -> float:
        """How long nothing is sent: longer for a prompt of hundreds of tokens."""
        count = self._count(asked)
        return count * 0.002 if count > 256 else 0.0

    def answer(self, asked: Asked) -> Answer:
        """Raises TooLong, BadGrammar or BadSchema."""
        count = self._count(asked)
        if count > self.context_tokens:
            raise TooLong(count, self.context_tokens)
        calls = self._calls(asked)
        if calls:
            return Answer((), calls, "tool_calls", count, 7 * len(calls))
        pieces = self._words(asked)
        whole = pieces[: asked.max_tokens] if asked.max_tokens else pieces
        finish = "length" if len(whole) < len(pieces) or (asked.max_tokens or math.inf) == len(whole) else "stop"
        said, used, stopped = _until_stop(whole, asked.stop)
        tokens = [Token(text, self._logprobs(text, asked.logprobs)) for text in said]
        return Answer(tokens, (), "stop" if stopped else finish, count, used)

    def embed(self, text: str) -> list[float]:
        """A vector of length 1."""
        raw = [byte - 127.5 for byte in hashlib.sha256(text.encode()).digest()[:8]]
        length = math.sqrt(sum(value * value for value in raw))
        return [value / length for value in raw]

    def count(self, text: str) -> int:
        """Tokens of a text: its words, and two for what surrounds them."""
        return len(text.split()) + 2

    def _count(self, asked: Asked) -> int:
        return sum(self.count(message.text) for message in asked.messages)

    def _calls(self, asked: Asked) -> Sequence[Call]:
        last = asked.messages[-1]
        if not asked.tools or asked.tool_choice == "none":
            return ()
        if asked.tool_choice in asked.tools:
            names = [asked.tool_choice]
        elif (found := re.search(r"call (\w+)(?: and (\w+))?", last.text)) and last.role == "user":
            names = [name for name in found.groups() if name in asked.tools]
        else:
            names = [next(iter(asked.tools))] if asked.tool_choice == "required" else []
        ids = [f"call-{n}" if self._calls_have_ids else "" for n in range(len(names))]
        return [Call(name, _instance(asked.tools[name]), ids[n]) for n, name in enumerate(names)]

    def _words(self, asked: Asked) -> Sequence[str]:
        last = asked.messages[-1]
        if asked.schema is not None:
            return _split(json.dumps(_instance(asked.schema), ensure_ascii=False))
        if asked.grammar is not None:
            if (rule := re.fullmatch(r'\s*root ::= "([^"]*)"\s*', asked.grammar)) is None:
                raise BadGrammar(asked.grammar)
            return _split(rule[1])
        if last.role == "tool":
            return _split(f"the tool says {last.text}")
        if last.images:
            image = last.images[-1]
            return _split(f"a picture of {len(image)} bytes" if isinstance(image, bytes) else f"a picture at {image}")
        if last.text.startswith("say "):
            return _split(last.text[4:])
        chance = random.Random(f"{asked.seed} {last.text}" if asked.temperature != 0 else last.text)  # noqa: S311 -- no secret
        count = min(asked.max_tokens or _USUAL_TOKENS, self.context_tokens)
        return [_syllable(chance) for _ in range(count + 1)]

    def _logprobs(self, text: str, top: int | None) -> Mapping[str, float]:
        if top is None:
            return {}
        return {text: -0.1, **{f"{text}{n}": -1.0 - n for n in range(max(0, top - 1))}}


def _syllable(chance: random.Random) -> str:
    return chance.choice(_CONSONANTS) + chance.choice(_VOWELS) + chance.choice(("", " "))


def _split(text: str) -> Sequence[str]:
    """Into tokens of at most three characters."""
    return [text[n : n + 3] for n in range(0, len(text), 3)]


def _until_stop(pieces: Sequence[str], stops: Sequence[str]) -> tuple[Sequence[str], int, bool]:
    """The pieces before the first stop sequence, how many tokens that took, and whether there was one."""
    whole = ""
    for used, piece in enumerate(pieces, 1):
        whole += piece
        if found := [at for stop in stops if (at := whole.find(stop)) >= 0]:
            said = list[str]()
            left = min(found)
            for each in pieces:
                if left > 0:
                    said.append(each[:left])
                left -= len(each)
            return said, used, True
    return pieces, len(pieces), False


_SIMPLEST = {"string": "Oslo", "integer": 42, "number": 42, "boolean": True, "null": None, None: None}


def _instance(schema: Mapping[str, Any]) -> Any:
    """The simplest value that a schema allows."""
    if not isinstance(schema, Mapping):
        raise BadSchema(schema)
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else None)
    if kind == "object":
        return {name: _instance(each) for name, each in schema.get("properties", {}).items()}
    if kind == "array":
        return [_instance(schema.get("items", {"type": "string"}))]
    if kind not in _SIMPLEST:
        raise BadSchema(kind)
    return _SIMPLEST[kind]
