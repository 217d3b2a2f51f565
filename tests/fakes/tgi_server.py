"""A small text-generation-inference server (3.3.7): /info, /generate, /generate_stream, the messages API, /tokenize.

As with the real one, what is wrong with a streamed request is an event of a stream whose status is 200; a streamed call
ends without a finish_reason, and lacks its last brace when one token ends its name and the call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

from tests.fakes import tgi_model
from tests.fakes.documented import Documented
from tests.fakes.http_server import HttpServer, Piece, Received, Reply, failing, streaming, whole
from tests.fakes.openai_model import DONE, data
from tests.fakes.tgi_model import Body, Failed, Generated, Invalid, ToolError
from tests.fakes.toy_model import Asked, ToyModel

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
VERSION = "3.3.7"


def event(delta: Body, **more: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": {"role": "assistant", **delta}, "logprobs": None, "finish_reason": None, **more}
    return data(chunk(choices=[choice], usage=None))


def chunk(**more: Any) -> Body:
    known = {"object": "chat.completion.chunk", "id": "", "created": 1, "model": LLAMA}
    return {**known, "system_fingerprint": f"{VERSION}-native", **more}


def token(text: str, *, special: bool = False, details: Body | None = None, **more: Any) -> bytes:
    """One event of /generate_stream."""
    said = {"id": 1, "text": text, "logprob": -0.1, "special": special}
    return data({"index": 1, "token": said, "generated_text": None, "details": details, **more})


class TGIServer(HttpServer):
    """Satisfies `tests/fakes/backend.Backend`."""

    stream_type = "text/event-stream"

    def __init__(
        self, model_id: str = LLAMA, *, key: str | None = None, port: int = 0, model: ToyModel | None = None
    ) -> None:
        super().__init__(port=port)
        self.model_id = model_id
        self.key = key
        """What it wants as a bearer token, but for what it tells of itself."""
        self.pipeline_tag: str | None = "image-text-to-text"
        self.listing: Reply | None = None
        """What it answers to GET /info instead."""
        self.model = model or ToyModel(calls_have_ids=False)
        self.asked: list[Asked] = []
        self.documented = Documented.of("tgi")

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.url = self.root
        return self

    def answer(self, request: Received) -> Reply:
        match request.path:
            case "/info":
                return self.listing or whole(self.info())
            case "/v1/models":
                return whole({"object": "list", "data": [{"id": self.model_id, "object": "model"}]})
            case "/chat_tokenize":
                prompt = sum(self.model.count(said.text) for said in self._conversation(request.body).messages)
                return whole({"tokenize_response": _tokens(prompt), "templated_text": ""})
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return self.refusal(401)
        if request.path == "/tokenize":
            return whole(_tokens(self.model.count(request.body["inputs"])))
        return super().answer(request)

    def speak(self, request: Received) -> Reply:
        speak: Callable[[Body], Reply] | None = {
            "/": self._compatible,
            "/generate": self._generate,
            "/generate_stream": self._generate_stream,
            "/v1/chat/completions": self._chat,
        }.get(request.path)
        if speak is None:
            return failing(404, b"")
        try:
            return speak(request.body)
        except (KeyError, ValueError, TypeError) as error:
            return failing(422, f"Failed to deserialize the JSON body into the target type: {error}".encode())

    def refusal(self, status: int, retry_after: str | None = None) -> Reply:
        if status == 401:
            return failing(401, b"")
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return self.documented.refusal(status, headers, problem="it is refused")

    def said(self, text: str) -> bytes:
        return event({"content": text})

    def broken(self) -> bytes:
        return b'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta"\n\n'

    def info(self) -> Body:
        limits = {"max_total_tokens": self.model.context_tokens, "max_input_tokens": self.model.context_tokens - 1}
        return {
            "model_id": self.model_id,
            "model_sha": None,
            "model_pipeline_tag": self.pipeline_tag,
            "max_concurrent_requests": 128,
            "max_best_of": 2,
            "max_stop_sequences": tgi_model.STOPS,
            **limits,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": VERSION,
            "sha": None,
            "docker_label": None,
        }

    # Its own API

    def _compatible(self, body: Body) -> Reply:
        if body.get("stream"):
            return self._generate_stream(body)
        reply = self._generate(body)
        if reply.status != 200:
            return reply
        *waiting, answered = reply.pieces
        return Reply([*waiting, b"[" + answered + b"]"], headers=reply.headers)

    def _generate(self, body: Body) -> Reply:
        try:
            asked = self._prompt(body)
            said = tgi_model.generate(self.model, asked)
        except (Invalid, Failed, ToolError) as error:
            return self._complaint(error)
        answer: dict[str, Any] = {"generated_text": said.text}
        if (body.get("parameters") or {}).get("details"):
            details = {name: value for name, value in said.details.items() if name != "input_length"}
            top = {"top_tokens": said.top_tokens} if asked.logprobs else {}
            answer["details"] = {**details, "prefill": [], "tokens": said.tokens, **top}
        return self._whole(asked, said, answer)

    def _generate_stream(self, body: Body) -> Reply:
        try:
            asked = self._prompt(body)
            said = tgi_model.generate(self.model, asked)
        except (Invalid, Failed, ToolError) as error:
            return streaming(data(_body(self._complaint(error))))
        wants_details = (body.get("parameters") or {}).get("details")
        events: list[Body] = []
        for n, (each, top) in enumerate(zip(said.tokens, said.top_tokens, strict=True), 1):
            last = n == len(said.tokens)
            more = {"top_tokens": top} if top else {}
            ending = {"generated_text": said.text, "details": said.details if wants_details else None}
            events.append({"index": n, "token": each, **more, **(ending if last else dict.fromkeys(ending))})
        return self._streamed(asked, [[data(event)] for event in events])

    # The messages API

    def _chat(self, body: Body) -> Reply:
        try:
            asked = self._conversation(body)
            self.asked.append(asked)
        except (Invalid, Failed, ToolError) as error:
            return self._complaint(error)  # before the stream: its status is said
        wants = body.get("logprobs")
        try:
            said = tgi_model.generate(self.model, asked)
        except (Invalid, Failed) as error:
            text = _body(self._complaint(error))["error"]
            if body.get("stream"):
                return streaming(data({"error": {"message": text, "http_status_code": 422}}), DONE)
            return self._complaint(error)
        if body.get("stream"):
            events = _called(said) if said.call is not None else _spoken(said, logprobs=bool(wants))
            usage = [[data(chunk(choices=[], usage=_usage(said)))]] if _counts(body) else []
            return self._streamed(asked, [*([event] for event in events), *usage], DONE)
        message: dict[str, Any] = {"role": "assistant", "content": said.text}
        if said.call is not None:
            message = {"role": "assistant", "tool_calls": [_whole_call(said)]}
        logprobs = {"content": [_entry(*pair) for pair in zip(said.tokens, said.top_tokens, strict=True)]}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs if wants else None,
            "finish_reason": _finish(said),
        }
        return self._whole(asked, said, {**chunk(choices=[choice], usage=_usage(said)), "object": "chat.completion"})

    def _prompt(self, body: Body) -> Asked:
        asked = tgi_model.prompt(body, self.model_id)
        self.asked.append(asked)
        return asked

    def _conversation(self, body: Body) -> Asked:
        return tgi_model.conversation(body, self.model_id)

    def _complaint(self, error: Exception) -> Reply:
        name = {Invalid: "422", Failed: "424", ToolError: "tool_error"}[type(error)]
        return self.documented.refusal(name, problem=str(error))

    def _streamed(self, asked: Asked, groups: Sequence[Sequence[bytes]], *end: bytes) -> Reply:
        """Slowly: each group of events is written a while after the one before."""
        between = self.model.seconds_between_tokens(asked)
        pieces: list[Piece] = [self.model.seconds_to_read(asked)]
        for group in groups:
            pieces += [*group, between]
        return streaming(*pieces, *end)

    def _whole(self, asked: Asked, said: Generated, payload: Body) -> Reply:
        seconds = self.model.seconds_to_read(asked) + len(said.tokens) * self.model.seconds_between_tokens(asked)
        reply = whole(payload)
        return Reply([seconds, *reply.pieces], headers={**reply.headers, "x-prompt-tokens": str(said.input_length)})


def _spoken(said: Generated, *, logprobs: bool) -> Iterator[bytes]:
    """The events of a text."""
    for n, (each, top) in enumerate(zip(said.tokens, said.top_tokens, strict=True), 1):
        finish = _finish(said) if n == len(said.tokens) else None
        content = {"content": [_entry(each, top)]} if logprobs else None
        yield event({"content": "" if each["special"] else each["text"]}, logprobs=content, finish_reason=finish)


def _called(said: Generated) -> Iterator[bytes]:
    """The events of a call: none until its name is whole, then a piece of its arguments a token."""
    text, name = "", ""
    for n, each in enumerate(said.tokens, 1):
        finish = _finish(said) if n == len(said.tokens) else None
        text += each["text"]
        if not name:
            if name := _name(text):
                yield _piece(name, "{", finish)
        elif each["special"]:
            yield event({"content": ""}, finish_reason=finish)
        elif _is_call(text):
            yield _piece(None, each["text"].rstrip().removesuffix("}"), finish)
            return  # whatever comes now is taken for the beginning of another
        else:
            yield _piece(None, each["text"], finish)


def _name(text: str) -> str:
    try:
        return json.loads(text.rstrip(" \n\t,}") + "}}")["function"]["_name"]
    except (ValueError, KeyError, TypeError):
        return ""


def _is_call(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _piece(name: str | None, arguments: str, finish: str | None) -> bytes:
    call = {"index": 0, "id": "0", "type": "function", "function": {"name": name, "arguments": arguments}}
    return event({"tool_calls": [call]}, finish_reason=finish)


def _whole_call(said: Generated) -> Body:
    assert said.call is not None
    arguments = json.dumps(said.call.arguments, ensure_ascii=False, separators=(",", ":"))
    function = {"description": None, "name": said.call.name, "arguments": arguments}
    return {"id": "0", "type": "function", "function": function}


def _entry(each: Body, top: Sequence[Body]) -> Body:
    others = [{"token": other["text"], "logprob": other["logprob"]} for other in top]
    return {"token": each["text"], "logprob": each["logprob"], "top_logprobs": others}


def _finish(said: Generated) -> str:
    return "stop" if said.finish_reason == "eos_token" else said.finish_reason


def _usage(said: Generated) -> Body:
    used = {"prompt_tokens": said.input_length, "completion_tokens": len(said.tokens)}
    return {**used, "total_tokens": sum(used.values())}


def _counts(body: Body) -> bool:
    return bool((body.get("stream_options") or {}).get("include_usage"))


def _tokens(count: int) -> Sequence[Body]:
    return [{"id": n, "text": "", "start": 0, "stop": 0} for n in range(count)]


def _body(reply: Reply) -> Any:
    [body] = reply.pieces
    assert isinstance(body, bytes)
    return json.loads(body)
