"""A small server of Ollama's own API before a ToyModel (https://github.com/ollama/ollama/blob/main/docs/api.md).

    async with OllamaServer("llama3.2:1b", "all-minilm:latest") as server:
        server.running                      # both are pulled, and run
        server.expire("llama3.2:1b")        # it was idle for too long

It is stricter than Ollama, which ignores parameters and options that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

from tests.fakes import ollama_words as words
from tests.fakes.documented import Documented
from tests.fakes.http_server import HttpServer, Piece, Received, Reply, failing, whole
from tests.fakes.ollama_words import MODEL, Body, line
from tests.fakes.toy_model import Answer, Asked, BadSchema, Said, TooLong, ToyModel

_KEPT = {"model", "keep_alive", "options"}
_COMMON = _KEPT | {"stream", "format", "think", "truncate", "shift", "logprobs", "top_logprobs"}
FIELDS: Mapping[str, AbstractSet[str]] = {
    "/api/chat": _COMMON | {"messages", "tools"},
    "/api/generate": _COMMON | {"prompt", "suffix", "images", "system", "template", "raw", "context"},
    "/api/embed": _KEPT | {"input", "truncate", "dimensions"},
    "/api/pull": {"model", "insecure", "stream"},
}
OPTIONS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("num_ctx", "num_predict", "seed", "top_k", "num_keep", "repeat_last_n"), int),
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p", "repeat_penalty"), (int, float)),
    "stop": list,
}
_DURATION = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+|0")


class Refused(Exception):
    """The request is answered with this error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class OllamaServer(HttpServer):
    """Satisfies `tests/fakes/backend.Backend`."""

    stream_type: ClassVar[str] = "application/x-ndjson"

    def __init__(
        self,
        *models: str,
        embedders: Sequence[str] = (),
        key: str | None = None,
        port: int = 0,
        model: ToyModel | None = None,
    ) -> None:
        super().__init__(port=port)
        self.pulled = list(models or (MODEL,))
        self.embedders = set(embedders)
        """Those of them that do nothing but embed."""
        self.running: dict[str, Any] = dict.fromkeys(self.pulled)
        """What is in memory, and for how long it is kept there when idle: None is as the server likes."""
        self.cloud: dict[str, str] = {}
        """Models of Ollama's cloud, and the host where they run."""
        self.library: list[str] = []
        """What can be pulled."""
        self.room = 10
        """How many models fit into memory."""
        self.toolless: set[str] = set()
        """Models that call no tools."""
        self.listing: Reply | None = None
        """What it answers to GET /api/ps and /api/tags instead."""
        self.progress: Sequence[Piece] = [line({"status": "pulling manifest"})]
        """What a pull says before it succeeds."""
        self.load_seconds = 0.0
        self.key = key
        """What it wants as a bearer token."""
        self.model = model or ToyModel()
        self.asked: list[Asked] = []
        self.documented = Documented.of("ollama")

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.url = self.root
        return self

    def expire(self, name: str) -> None:
        """It leaves memory."""
        del self.running[name]

    # Backend

    def answer(self, request: Received) -> Reply:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return self.refusal(401)
        match request.method, request.path:
            case "GET", "/api/ps":
                return self.listing or whole({"models": [words.listed(name) for name in self.running]})
            case "GET", "/api/tags":
                cloud = [{**words.listed(name), "remote_host": host} for name, host in self.cloud.items()]
                return self.listing or whole({"models": [*map(words.listed, self.pulled), *cloud]})
        return super().answer(request)

    def speak(self, request: Received) -> Reply:
        speak: Callable[[Body], Reply] | None = {
            "/api/chat": self._chat,
            "/api/generate": self._generate,
            "/api/embed": self._embed,
            "/api/pull": self._pull,
        }.get(request.path)
        if request.method != "POST" or speak is None:
            return failing(404, b"404 page not found", {"Content-Type": "text/plain"})
        try:
            self._check(request.path, request.body)
            return speak(request.body)
        except Refused as error:
            return error.reply
        except TooLong as error:
            numbers = {"prompt_tokens": error.prompt_tokens, "context_tokens": error.context_tokens}
            return self.documented.refusal("too_long", **numbers)
        except BadSchema:
            return self.documented.refusal("bad_schema")
        except Exception as error:  # noqa: BLE001 -- whatever the request is not, is its fault
            return self.documented.refusal(400, problem=repr(error))

    def refusal(self, status: int, retry_after: str | None = None) -> Reply:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return self.documented.refusal(status, headers, model=self.pulled[0], problem="it is refused")

    def said(self, text: str) -> bytes:
        return words.said(text)

    def broken(self) -> bytes:
        return b'{"model": "m", "message": {"role"\n'

    def failure(self, name: str) -> bytes:
        """A documented error as the last line of a stream."""
        [body] = self.documented.refusal(name).pieces
        return cast("bytes", body) + b"\n"

    def lines(self, *pieces: Piece) -> Reply:
        """A stream."""
        return Reply(pieces, streamed=True, headers={"Content-Type": self.stream_type})

    # What is wrong with a request

    def _check(self, path: str, body: Body) -> None:
        if unknown := sorted(body.keys() - FIELDS[path]):
            raise Refused(self.documented.refusal("unknown_field", field=unknown[0]))
        for name, value in (body.get("options") or {}).items():
            if not isinstance(value, OPTIONS[name]) or isinstance(value, bool):
                raise TypeError(f"option {name!r} must be of type {OPTIONS[name]}")
        keep_alive = body.get("keep_alive")
        if isinstance(keep_alive, str) and not _DURATION.fullmatch(keep_alive):
            raise ValueError(f'time: invalid duration "{keep_alive}"')
        if not 0 <= body.get("top_logprobs", 0) <= 20:
            raise ValueError("top_logprobs must be between 0 and 20")

    def _loaded(self, body: Body, what: str) -> str:
        """The model, which is in memory from now on. Raises Refused."""
        name = words.tagged(body["model"])
        if name in self.cloud:
            return name
        if name not in self.pulled:
            refusal = "embed_404" if what == "embed" else "404"
            raise Refused(self.documented.refusal(refusal, model=body["model"]))
        if what != "embed" and name in self.embedders:
            raise Refused(self.documented.refusal("cannot", model=body["model"], what=what))
        if body.get("tools") and name in self.toolless:
            raise Refused(self.documented.refusal("no_tools", model=name))
        kept = body.get("keep_alive", self.running.get(name))
        self.running[name] = kept
        while len(self.running) > self.room:
            self.expire(next(other for other in self.running if other != name))
        return name

    def _is_wish(self, body: Body, what: str, content: Any) -> Reply | None:
        """The answer, if nothing is said: the model is to be loaded or unloaded."""
        if content:
            return None
        name = words.tagged(body["model"])
        if body.get("keep_alive") in (0, "0") and name in self.pulled:
            self.running.pop(name, None)
            return self._wished(body, what, "unload")
        self._loaded(body, what)
        reply = self._wished(body, what, "load")
        return Reply([self.load_seconds, *reply.pieces], headers=reply.headers)

    def _wished(self, body: Body, what: str, reason: str) -> Reply:
        nothing: Body = {"message": {"role": "assistant", "content": ""}} if what == "chat" else {"response": ""}
        return whole({"model": body["model"], **nothing, "done": True, "done_reason": reason})

    # Requests

    def _chat(self, body: Body) -> Reply:
        if reply := self._is_wish(body, "chat", body["messages"]):
            return reply
        self._loaded(body, "chat")
        tools = [tool["function"] for tool in body.get("tools") or () if tool["type"] == "function"]
        asked = self._asked(
            body,
            messages=[words.message_of(message) for message in body["messages"]],
            tools={tool["name"]: tool["parameters"] for tool in tools},
        )
        answer = self.model.answer(asked)

        def part(text: str, calls: Sequence[Body] = ()) -> Body:
            called = {"tool_calls": list(calls)} if calls else {}
            return {"message": {"role": "assistant", "content": text, **called}}

        calls = [words.call(n, call) for n, call in enumerate(answer.calls)]
        if body.get("stream") is False:
            return self._whole(asked, answer, part(answer.text, calls))
        parts = [{**part(token.text), **words.logprobs([token], asked.logprobs)} for token in answer.tokens]
        return self._streamed(asked, answer, [*parts, *(part("", [call]) for call in calls)], part(""))

    def _generate(self, body: Body) -> Reply:
        if reply := self._is_wish(body, "generate", body.get("prompt")):
            return reply
        self._loaded(body, "generate")
        asked = self._asked(body, messages=[Said("prompt" if body.get("raw") else "user", body["prompt"])])
        answer = self.model.answer(asked)
        if body.get("stream") is False:
            return self._whole(asked, answer, {"response": answer.text})
        parts = [{"response": token.text, **words.logprobs([token], asked.logprobs)} for token in answer.tokens]
        return self._streamed(asked, answer, parts, {"response": ""})

    def _embed(self, body: Body) -> Reply:
        self._loaded(body, "embed")
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        tokens = [self.model.count(text) for text in texts]
        if body.get("truncate") is False and max(tokens, default=0) > self.model.context_tokens:
            return self.documented.refusal("too_long_uncounted")
        vectors = [self.model.embed(text) for text in texts]
        return whole({"model": body["model"], "embeddings": vectors, "prompt_eval_count": sum(tokens)})

    def _pull(self, body: Body) -> Reply:
        name = words.tagged(body["model"])
        if name not in self.library:
            return self.lines(line({"status": "pulling manifest"}), self.failure("no_such_model_to_pull"))
        self.pulled.append(name)
        return self.lines(*self.progress, line({"status": "success"}))

    def _asked(self, body: Body, **more: Any) -> Asked:
        options = body.get("options") or {}
        shape = body.get("format")
        if shape not in (None, "", "json") and not isinstance(shape, dict):
            raise ValueError('invalid format: expected "json" or a valid JSON Schema object')
        asked = Asked(
            model=words.tagged(body["model"]),
            max_tokens=options.get("num_predict"),
            stop=options.get("stop") or (),
            seed=options.get("seed"),
            temperature=options.get("temperature"),
            schema=shape if isinstance(shape, dict) else None,
            logprobs=body.get("top_logprobs", 0) if body.get("logprobs") else None,
            **more,
        )
        self.asked.append(asked)
        return asked if body.get("truncate") is False else self._truncated(asked)

    def _truncated(self, asked: Asked) -> Asked:
        """With no more words than the context holds: Ollama leaves out the beginning unless it is told not to."""
        *_, last = asked.messages
        said = last.text.split()
        if len(said) < self.model.context_tokens:
            return asked
        return replace(asked, messages=[replace(last, text=" ".join(said[-self.model.context_tokens // 2 :]))])

    # Answers

    def _streamed(self, asked: Asked, answer: Answer, parts: Sequence[Body], last: Body) -> Reply:
        """Slowly: one line a token."""
        pieces: list[Piece] = [self.model.seconds_to_read(asked)]
        for part in parts:
            pieces += [line({**words.stamp(asked), **part, "done": False}), self.model.seconds_between_tokens(asked)]
        return self.lines(*pieces, line({**words.stamp(asked), **last, **words.end(answer)}))

    def _whole(self, asked: Asked, answer: Answer, part: Body) -> Reply:
        """After the time that the model takes for all of it."""
        seconds = self.model.seconds_to_read(asked) + len(answer.tokens) * self.model.seconds_between_tokens(asked)
        logprobs = words.logprobs(answer.tokens, asked.logprobs)
        reply = whole({**words.stamp(asked), **part, **words.end(answer), **logprobs})
        return Reply([seconds, *reply.pieces], headers=reply.headers)
