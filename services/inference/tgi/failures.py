"""What TGI means by its errors: {"error": text, "error_type": ...}, with a status or inside a stream.

A stream's status is 200, so what is wrong with the request is its first event. The messages API puts an error into
another form there, {"error": {"message": text, "http_status_code": 422}}, with that code whatever the error is: only
its text tells. The texts are those of router/src/infer/mod.rs and validation.rs, 2.4 to 3.3.7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from pydantic_core import from_json

from services.inference.remote import errors as remote
from stackmesh.errors import (
    BackendRejected,
    BackendUnauthenticated,
    ContextExceeded,
    Internal,
    MeshError,
    NotServing,
    Unsupported,
)

_STATUSES: Final[Mapping[str, int]] = {
    "Input validation error": 422,
    "Model is overloaded": 429,
    "Request failed during generation": 424,
    "Incomplete generation": 500,
    "Template error": 422,
    "Missing template": 422,
    "Tool error": 422,
}
"""By the beginning of the text, the status that the error has outside a stream."""

_OVER_CONTEXT: Final = re.compile(
    r"tokens \+ `max_new_tokens` must be <= (?P<context>\d+)\. Given: (?P<prompt>\d+) `inputs` tokens"
    r"|`inputs` must have less than (?P<most>\d+) tokens\. Given: (?P<given>\d+)"
)


def refusal(where: str, status: int, body: bytes, *, retry_after: str = "", key: str | None = None) -> MeshError:
    """The error of an answer whose status is not 200. A Refusal."""
    parsed: Any = None
    with suppress(ValueError):  # a proxy's page, or a text about JSON that is none
        parsed = from_json(body)
    return _meaning(where, status, parsed, retry_after, key)


def failure(where: str, event: Mapping[str, Any], key: str | None) -> MeshError:
    """The error that an event of a stream is."""
    error: Any = event["error"]
    text = str(cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error)
    status = next((status for beginning, status in _STATUSES.items() if text.startswith(beginning)), 500)
    return _meaning(where, status, event, "", key)


def _meaning(where: str, status: int, body: Any, retry_after: str, key: str | None) -> MeshError:
    found = remote.meaning(where, status, body, retry_after=retry_after, key=key)
    if status == 424:  # it failed while it generated
        return Internal(found.message)
    if status == 404 and not isinstance(found, NotServing):
        return Unsupported(f"{where} answered 404; its url is not the root of a text-generation-inference server")
    if isinstance(found, BackendUnauthenticated) and key is None:
        return BackendUnauthenticated(f"{found.message}; send a token as tgi_api_token in the provider data")
    if isinstance(found, BackendRejected) and (over := _OVER_CONTEXT.search(found.message)) is not None:
        return _over_context(over) or found
    return found


def _over_context(over: re.Match[str]) -> ContextExceeded | None:
    """ContextExceeded if the prompt alone is too long; a `max_tokens` that is too large is TGI's to explain."""
    prompt, context = int(over["prompt"] or over["given"]), int(over["context"] or over["most"])
    return ContextExceeded(prompt, context) if prompt >= context else None
