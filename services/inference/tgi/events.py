"""The streams of TGI as streams of the OpenAI dialect.

Stop sequences are cut, special tokens are no text, a call is told in pieces of a JSON object, and a stream that lacks
its end has it. The comments by which TGI keeps a connection alive, every 15 seconds, are no sign of life of the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from services.inference.openai.sse import EventDecoder
from services.inference.remote.errors import sensible
from services.inference.remote.streams import Json
from services.inference.tgi.call_text import CallText
from services.inference.tgi.stop import TokenFilter
from stackmesh.errors import Timeout

_COMMENT: Final = b":\r\n"
"""The bytes of a comment without words."""
_NOTHING: Final[Json] = {}


class Tongue(Protocol):
    """One of the two ways in which TGI streams."""

    def made(self, event: Json) -> Iterator[Json]:
        """The events of the OpenAI dialect that an event is."""
        ...

    def last(self) -> Iterator[Json]:
        """Those that are yet to come when the stream has said that it is over."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more is to be heard."""
        ...


class Events:
    """The decoder of a stream. An event that is an error ends it, and is passed on as it is.

    `silence`: seconds with nothing but comments that are borne.
    """

    def __init__(
        self, where: str, tongue: Tongue, *, silence: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._where = where
        self._tongue = tongue
        self._silence = silence
        self._clock = clock
        self._heard = clock()
        self._decoder = EventDecoder()
        self.done = False

    def feed(self, data: bytes) -> list[Json]:
        """The events that `data` completes. Raises Timeout when only comments have come for too long."""
        found = self._decoder.feed(data)
        self._listen(heard=data.strip(_COMMENT) != b"")
        made: list[Json] = []
        with sensible(self._where):
            for event in found:
                if event.get("error"):
                    made.append(event)
                    self.done = True
                else:
                    made += self._tongue.made(event)
                    self.done = self._tongue.over
                if self.done:
                    return made
            if self._decoder.done:
                self.done = True
                made += self._tongue.last()
        return made

    def _listen(self, *, heard: bool) -> None:
        now = self._clock()
        if heard:
            self._heard = now
        elif now - self._heard > self._silence:
            raise Timeout(f"{self._where} was silent for {self._silence:g} s")


class Tokens:
    """The tokens of a stream, up to a stop sequence."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._filter = TokenFilter[Json](stops)
        self._count = 0
        self.overran = False
        """Whether TGI went on after a stop sequence. It is not heard to its end then, and so has not counted."""

    def cut(self, text: str, entries: Sequence[Json], finish: str | None) -> tuple[str, list[Json], str | None]:
        """The next token, and why it is the last one if it is; what of all may be passed on."""
        self._count += 1
        said, kept = self._filter.feed(text, entries)
        if self._filter.found:
            self.overran = finish is None
            return said, kept, "stop"
        if finish is not None:
            held, others = self._filter.rest()
            return said + held, kept + others, finish
        return said, kept, None

    def counted(self) -> Json:
        """Usage as far as it is known without TGI. `prompt_tokens` 0 stands for a number that is not."""
        return {"usage": {"prompt_tokens": 0, "completion_tokens": self._count}} if self.overran else {}


class Generate(Tokens):
    """/generate_stream, as /completions: a token an event. The last has `details`; there is no [DONE]."""

    def __init__(self, stops: Sequence[str], *, logprobs: bool) -> None:
        super().__init__(stops)
        self._logprobs = logprobs
        self.over = False

    def made(self, event: Json) -> Iterator[Json]:
        token = event["token"]
        text = "" if token["special"] else token["text"]
        entries = [_entry(token, event.get("top_tokens") or ())] if self._logprobs else ()
        details: Json | None = event.get("details")
        said, kept, finish = self.cut(text, entries, details["finish_reason"] if details is not None else None)
        choice = {"text": said, "logprobs": _content(kept), "finish_reason": finish}
        yield {"choices": [choice], **(_usage(details) if details is not None else self.counted())}
        self.over = finish is not None

    def last(self) -> Iterator[Json]:
        yield from ()


class Chat(Tokens):
    """/v1/chat/completions. Without a finish_reason ends, from 3.2 on, a stream that calls a tool, and before 3.2 one
    that might have and does not.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        super().__init__(stops)
        self._call = CallText()
        self._finished = False

    @property
    def over(self) -> bool:
        return self.overran

    def made(self, event: Json) -> Iterator[Json]:
        if not event.get("choices"):
            if event.get("usage") and not self._finished:  # there is nothing after it
                yield from self._finish("stop" if self._call.begun else "length")
            yield event
            return
        choice = event["choices"][0]
        delta, finish = choice["delta"], choice.get("finish_reason")
        for piece in _listed(delta.get("tool_calls")):
            yield from self._called(piece["function"])
        entries = _listed((choice.get("logprobs") or _NOTHING).get("content"))
        said, kept, finish = self.cut(delta.get("content") or "", entries, finish)
        usage = {"usage": event["usage"]} if event.get("usage") else self.counted()
        yield {"choices": [{"delta": {"content": said}, "logprobs": _content(kept)}], **usage}
        if finish is not None:
            yield from self._finish(finish)

    def last(self) -> Iterator[Json]:
        if not self._finished:
            yield from self._finish("stop")

    def _called(self, function: Json) -> Iterator[Json]:
        name, arguments = self._call.feed(function.get("name"), function.get("arguments"))
        if name or arguments:
            yield _call(name, arguments)

    def _finish(self, reason: str) -> Iterator[Json]:
        self._finished = True
        if reason != "length" and (lost := self._call.end()):
            yield _call("", lost)
        yield {"choices": [{"delta": {"content": self._call.unread()}, "finish_reason": reason}]}


def _listed(found: list[Json] | Json | None) -> list[Json]:
    """Before 3.2, `tool_calls` was a piece itself."""
    return [found] if isinstance(found, dict) else found or []


def _call(name: str, arguments: str) -> Json:
    """A piece of the call, without TGI's id: it is the same for all calls, or a number."""
    function = {"name": name, "arguments": arguments}
    return {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": function}]}}]}


def _content(entries: list[Json]) -> Json | None:
    return {"content": entries} if entries else None


def _entry(token: Json, likeliest: Sequence[Json]) -> Json:
    others = [{"token": other["text"], "logprob": other["logprob"]} for other in likeliest]
    return {"token": token["text"], "logprob": token["logprob"], "top_logprobs": others}


def _usage(details: Json) -> Json:
    return {"usage": {"prompt_tokens": details["input_length"], "completion_tokens": details["generated_tokens"]}}
