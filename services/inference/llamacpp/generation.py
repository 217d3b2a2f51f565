"""The call that makes llama.cpp generate text, in the shape that was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xllamacpp

from services.inference.llamacpp.answers import refusal
from services.inference.llamacpp.engine import Call
from services.inference.llamacpp.server import Callback, LlamaServer, Message
from stackmesh.errors import BackendRejected

Handle = Callable[[Message, Callback], None]

_LAYOUT: Message = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""How JSON is laid out (an extension of llguidance, which llama.cpp uses). A small model that may write white space
where it likes often never stops."""

_xllamacpp: Any = xllamacpp  # a compiled module without types


def generation(server: LlamaServer, handle: Handle, body: Message, schema: Message | None) -> Call:
    """`handle` called with `body`, its text held to a JSON schema if there is one."""

    def call(hear: Callback) -> None:
        try:
            shape = {"grammar": _json_grammar(server, schema)} if schema is not None else {}
            handle({**body, **shape}, hear)
        except (ValueError, RuntimeError) as error:
            raise refusal(error) from None

    return call


def _json_grammar(server: LlamaServer, schema: Message) -> str:
    grammar: str = _xllamacpp.json_schema_to_grammar({"x-guidance": _LAYOUT, **schema})
    if not _enforced(server, grammar):
        raise BackendRejected("response_format.json_schema: llama.cpp can make no grammar of it")
    return grammar


def _enforced(server: LlamaServer, grammar: str) -> bool:
    """Whether llama.cpp holds to a grammar of JSON. One that it cannot make sense of it silently ignores.

    So it is asked for one token, with all its weight on one that no JSON begins with. About 15 ms.
    """
    said: list[str] = []
    body: Message = {"prompt": "a", "max_tokens": 1, "temperature": 0, "logit_bias": [["@", 1000]], "stream": True}

    def hear(message: Message) -> bool:
        said.extend(choice["text"] for choice in message.get("choices", ()))
        return False

    server.handle_completions({**body, "grammar": grammar}, hear)
    return bool(said) and "@" not in "".join(said)
