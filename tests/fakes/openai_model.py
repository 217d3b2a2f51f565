"""The OpenAI dialect before a ToyModel: what the fakes of all servers that speak it have in common.

    class VLLMServer(OpenAIDialectServer):
        vendor = "vllm"                  # tests/fakes/bodies/vllm/errors.yaml
        ...                              # what vLLM does in its own way

By default it is as strict as OpenAI is: parameters that it does not know are refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from typing import Any, ClassVar, Self

from tests.fakes.documented import Documented
from tests.fakes.http_server import HttpServer, Piece, Received, Reply, streaming, whole
from tests.fakes.toy_model import Answer, Asked, BadGrammar, BadSchema, Call, Said, Token, TooLong, ToyModel

Body = Mapping[str, Any]

SAMPLING = {"model", "max_tokens", "temperature", "top_p", "stop", "seed", "stream", "stream_options"}
CHAT = SAMPLING | {"messages", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs"}
COMPLETION = SAMPLING | {"prompt", "logprobs"}
EMBEDDINGS = {"model", "input", "encoding_format"}


def data(payload: Any) -> bytes:
    """One event."""
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def event(delta: Body | None = None, **more: Any) -> bytes:
    """One event of a chat stream, with one choice."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None, **more}
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [choice]})


DONE = b"data: [DONE]\n\n"


class Refused(Exception):
    """The request is answered with this error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class OpenAIDialectServer(HttpServer):
    """Satisfies `tests/fakes/backend.Backend`."""

    vendor: ClassVar[str] = "openai"
    """Its folder in tests/fakes/bodies."""
    prefix: ClassVar[str] = "/v1"
    fields: ClassVar[Mapping[str, AbstractSet[str]]] = {
        "/chat/completions": CHAT,
        "/completions": COMPLETION,
        "/embeddings": EMBEDDINGS,
    }
    """The parameters it knows, by path; no others are taken. A path that is not there takes all."""
    usage_unasked: ClassVar[bool] = False
    """Whether the last event of a stream has the usage, instead of one after it, for who asks."""

    def __init__(self, *models: str, key: str | None = None, port: int = 0, model: ToyModel | None = None) -> None:
        super().__init__(port=port)
        self.models = list(models or ("fake-model",))
        self.key = key
        """What it wants as a bearer token."""
        self.listing: Reply | None = None
        """What it answers to GET /models instead of `models`, whatever the key."""
        self.model = model or ToyModel()
        self.asked: list[Asked] = []
        self.documented = Documented.of(self.vendor)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.url = self.root + self.prefix
        return self

    def answer(self, request: Received) -> Reply:
        listing = request.path == f"{self.prefix}/models"
        if listing and self.listing is not None:
            return self.listing
        if (refused := self.refused_key(request)) is not None:
            return refused
        if listing:
            return whole(self.listed())
        return super().answer(request)

    def refused_key(self, request: Received) -> Reply | None:
        """What it answers to a credential that it does not take."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        return None if self.lets_in(key) else self.refusal(401)

    def speak(self, request: Received) -> Reply:
        path = request.path.removeprefix(self.prefix)
        speak: Callable[[Body], Reply] | None = {
            "/chat/completions": self._chat,
            "/completions": self._completion,
            "/embeddings": self._embeddings,
        }.get(path)
        if speak is None:
            return super().speak(request)
        try:
            self.check(path, request.body)
            return speak(request.body)
        except Exception as error:  # noqa: BLE001 -- whatever the request is not, is its fault
            return self.complaint(error)

    def refusal(self, status: int, retry_after: str | None = None) -> Reply:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return self.documented.refusal(status, headers, model=self.models[0], problem="it is refused")

    def said(self, text: str) -> bytes:
        return event({"content": text})

    def broken(self) -> bytes:
        return b'data: {"choices": [{"index": 0, "delta"\n\n'

    # What servers do in their own ways

    def lets_in(self, key: str) -> bool:
        return self.key is None or key == self.key

    def listed(self) -> Any:
        """The answer to GET /models."""
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}

    def check(self, path: str, body: Body) -> None:
        """Raises Refused for a model that it does not serve and for parameters that it does not know."""
        if body["model"] not in self.models:
            raise Refused(self.documented.refusal(404, model=body["model"]))
        if path in self.fields and (unknown := sorted(body.keys() - self.fields[path])):
            raise Refused(self.documented.refusal("unknown_field", field=unknown[0]))

    def complaint(self, error: Exception) -> Reply:
        """What it answers to a request that it cannot read, or its model not follow."""
        match error:
            case Refused():
                return error.reply
            case TooLong():
                return self.too_long(error.prompt_tokens, error.context_tokens)
            case BadGrammar():
                return self.documented.refusal("bad_grammar")
            case BadSchema():
                return self.documented.refusal("bad_schema")
            case _:
                return self.documented.refusal(400, problem=repr(error))

    def too_long(self, prompt_tokens: int, context_tokens: int) -> Reply:
        return self.documented.refusal("too_long", prompt_tokens=prompt_tokens, context_tokens=context_tokens)

    def shape(self, body: Body) -> tuple[Any, str | None]:
        """The JSON schema or the grammar that the text has to follow."""
        wanted = body.get("response_format")
        if wanted is None or wanted["type"] == "text":
            return None, None
        if wanted["type"] != "json_schema":
            raise ValueError(wanted["type"])
        return wanted["json_schema"]["schema"], None

    def top_logprobs(self, body: Body) -> int | None:
        """How many of the likeliest tokens of a chat are wanted; None: none at all."""
        return (body.get("top_logprobs") or 0) if body.get("logprobs") else None

    def listed_top(self, body: Body) -> int | None:
        """As `top_logprobs`, of a completion."""
        return body.get("logprobs")

    def chat_logprobs(self, tokens: Sequence[Token], top: int) -> Any:
        """The `logprobs` of a choice of a chat."""
        return {"content": [_entry(token, top) for token in tokens]}

    def finish(self, answer: Answer, body: Body) -> str:
        """The finish_reason."""
        return answer.finish

    def chat_piece(
        self, delta: Body, asked: Asked, *, token: Token | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        """The choice of an event of a chat stream."""
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if token is not None and asked.logprobs is not None:
            choice["logprobs"] = self.chat_logprobs([token], asked.logprobs)
        return choice

    def completion_piece(
        self, text: str, asked: Asked, *, token: Token | None = None, finish: str | None = None
    ) -> dict[str, Any]:
        """The choice of an event of a stream of /completions."""
        logprobs = listed_logprobs([token]) if token is not None and asked.logprobs is not None else None
        return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def embedded(self, model: str, tokens: int) -> Body:
        """What an answer of /embeddings has beside the vectors."""
        return {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}

    # Requests

    def _chat_asked(self, body: Body) -> Asked:
        choice = body.get("tool_choice") or "auto"
        schema, grammar = self.shape(body)
        return self._asked(
            body,
            messages=[_said(message) for message in body["messages"]],
            tools=dict(map(_tool, body.get("tools") or ())),
            tool_choice=choice if isinstance(choice, str) else choice["function"]["name"],
            schema=schema,
            grammar=grammar,
            logprobs=self.top_logprobs(body),
        )

    def _completion_asked(self, body: Body) -> Asked:
        schema, grammar = self.shape(body)
        if not isinstance(body["prompt"], str):
            raise TypeError("prompt")
        prompt = [Said("prompt", body["prompt"])]
        logprobs = self.listed_top(body)
        return self._asked(body, messages=prompt, schema=schema, grammar=grammar, logprobs=logprobs)

    def _asked(self, body: Body, **more: Any) -> Asked:
        stop = body.get("stop") or ()
        asked = Asked(
            model=body["model"],
            max_tokens=body.get("max_tokens"),
            stop=[stop] if isinstance(stop, str) else stop,
            seed=body.get("seed"),
            temperature=body.get("temperature"),
            **more,
        )
        self.asked.append(asked)
        return asked

    # Answers

    def _chat(self, body: Body) -> Reply:
        asked = self._chat_asked(body)
        answer = self.model.answer(asked)
        finish = self.finish(answer, body)
        if body.get("stream"):
            choices = [
                self.chat_piece({"role": "assistant", "content": ""}, asked),
                *(self.chat_piece({"content": token.text}, asked, token=token) for token in answer.tokens),
                *(self.chat_piece({"tool_calls": [piece]}, asked) for piece in _pieces(answer.calls)),
                self.chat_piece({}, asked, finish=finish),
            ]
            return self._streamed(asked, body, answer, "chat.completion.chunk", choices)
        message: dict[str, Any] = {"role": "assistant", "content": answer.text if answer.tokens else None}
        if answer.calls:
            message["tool_calls"] = [_call(n, call) for n, call in enumerate(answer.calls)]
        logprobs = self.chat_logprobs(answer.tokens, asked.logprobs) if asked.logprobs is not None else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
        return self._whole(asked, answer, {"object": "chat.completion", "choices": [choice]})

    def _completion(self, body: Body) -> Reply:
        asked = self._completion_asked(body)
        answer = self.model.answer(asked)
        finish = self.finish(answer, body)
        if body.get("stream"):
            choices = [
                *(self.completion_piece(token.text, asked, token=token) for token in answer.tokens),
                self.completion_piece("", asked, finish=finish),
            ]
            return self._streamed(asked, body, answer, "text_completion", choices)
        logprobs = listed_logprobs(answer.tokens) if asked.logprobs is not None else None
        choice = {"index": 0, "text": answer.text, "logprobs": logprobs, "finish_reason": finish}
        return self._whole(asked, answer, {"object": "text_completion", "choices": [choice]})

    def _embeddings(self, body: Body) -> Reply:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = [
            {"object": "embedding", "index": n, "embedding": self.model.embed(text)} for n, text in enumerate(texts)
        ]
        answer = {"object": "list", "model": body["model"], "data": vectors[::-1]}
        return whole({**answer, **self.embedded(body["model"], sum(map(self.model.count, texts)))})

    def _streamed(self, asked: Asked, body: Body, answer: Answer, kind: str, choices: Sequence[Body]) -> Reply:
        """Slowly: an event a choice, each a while after the one before."""
        between = self.model.seconds_between_tokens(asked)
        frame = {"id": "cmpl-1", "object": kind, "created": 1, "model": asked.model}
        events: list[dict[str, Any]] = [{**frame, "choices": [choice]} for choice in choices]
        if self.usage_unasked:
            events[-1]["usage"] = usage(answer)
        elif (body.get("stream_options") or {}).get("include_usage"):
            events.append({**frame, "choices": [], "usage": usage(answer)})
        pieces: list[Piece] = [self.model.seconds_to_read(asked)]
        for each in events:
            pieces += [data(each), between]
        return streaming(*pieces, DONE)

    def _whole(self, asked: Asked, answer: Answer, payload: Body) -> Reply:
        """After the time that the model takes for all of it."""
        seconds = self.model.seconds_to_read(asked) + len(answer.tokens) * self.model.seconds_between_tokens(asked)
        reply = whole({"id": "cmpl-1", "created": 1, "model": asked.model, **payload, "usage": usage(answer)})
        return Reply([seconds, *reply.pieces], headers=reply.headers)


def usage(answer: Answer) -> Body:
    total = answer.prompt_tokens + answer.completion_tokens
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": total,
    }


def listed_logprobs(tokens: Sequence[Token]) -> Body:
    """The older form, of /completions: parallel lists."""
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprobs[token.text] for token in tokens],
        "top_logprobs": [dict(token.logprobs) for token in tokens],
        "text_offset": [],
    }


def _entry(token: Token, top: int) -> Body:
    likeliest = [_likely(text, value) for text, value in token.logprobs.items()]
    return {**_likely(token.text, token.logprobs[token.text]), "top_logprobs": likeliest[:top]}


def _likely(text: str, logprob: float) -> Body:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _said(message: Body) -> Said:
    role = message["role"]
    if role not in ("system", "user", "assistant", "tool"):
        raise ValueError(role)
    text, images = _content(message.get("content"))
    calls = [
        Call(call["function"]["name"], json.loads(call["function"]["arguments"]), call["id"])
        for call in message.get("tool_calls") or ()
    ]
    return Said(role, text, images, calls, message["tool_call_id"] if role == "tool" else "")


def _content(content: Any) -> tuple[str, Sequence[bytes | str]]:
    """Its text, and its pictures."""
    if content is None or isinstance(content, str):
        return content or "", ()
    texts = [part["text"] for part in content if part["type"] == "text"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    if len(texts) + len(urls) < len(content):
        raise ValueError("content")
    return "".join(texts), [_picture(url) for url in urls]


def _picture(url: str) -> bytes | str:
    head, separator, encoded = url.partition(";base64,")
    return base64.b64decode(encoded, validate=True) if separator and head.startswith("data:image/") else url


def _tool(tool: Body) -> tuple[str, Body]:
    if tool["type"] != "function":
        raise ValueError(tool["type"])
    return tool["function"]["name"], tool["function"].get("parameters") or {}


def _call(index: int, call: Call) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "index": index,
        "id": call.call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _pieces(calls: Sequence[Call]) -> Iterator[Body]:
    """Each call: its name, then its arguments in pieces."""
    for n, call in enumerate(calls):
        made = _call(n, call)
        arguments = made["function"]["arguments"]
        yield {**made, "function": {"name": call.name, "arguments": ""}}
        for at in range(0, len(arguments), 6):
            yield {"index": n, "function": {"arguments": arguments[at : at + 6]}}
