"""What Ollama means by its errors: `{"error": "..."}`, whole or as the last line of a stream.

The text is its own, or the JSON in which the model's runner (llama.cpp's server) said it. Ollama's words are those of
its source, v0.12 to v0.33 (server/routes.go, server/sched.go, server/images.go, llm/llama_server.go).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, cast

from pydantic_core import from_json

from services.inference.remote import errors as remote
from stackmesh.errors import BackendUnauthenticated, MeshError, NotServing, QueueFull, Unsupported

_QUEUE_FULL: Final = "maximum pending requests exceeded"
_CANNOT: Final = "does not support"
"""What is said of a model that sees nothing, calls no tools, or is for embeddings alone."""
_RETRY_AFTER: Final = 1.0


def refusal(where: str, status: int, body: bytes, *, retry_after: str = "", key: str | None = None) -> MeshError:
    """The error of an answer whose status is not 200. A Refusal."""
    parsed: Any = None
    with suppress(ValueError):  # the page of a proxy, or of a path that there is not
        parsed = from_json(body)
    return _meaning(where, status, parsed, retry_after, key)


def failure(where: str, event: Mapping[str, Any], key: str | None) -> MeshError:
    """The error that a stream ended with. Its status was 200; what it would have been only a runner says."""
    inner: Any = _unwrapped(event).get("error")
    code: Any = cast("dict[str, Any]", inner).get("code") if isinstance(inner, dict) else None
    return _meaning(where, code if isinstance(code, int) and 400 <= code < 600 else 500, event, "", key)


def _meaning(where: str, status: int, body: Any, retry_after: str, key: str | None) -> MeshError:
    plain: Mapping[str, Any] = _unwrapped(cast("dict[str, Any]", body)) if isinstance(body, dict) else {}
    found = remote.meaning(where, status, plain, retry_after=retry_after, key=key)
    said = found.message
    if status == 503 and _QUEUE_FULL in said:
        return QueueFull(said, retry_after=_RETRY_AFTER)
    if status == 400 and _CANNOT in said:
        return Unsupported(said)
    if status == 404 and not isinstance(found, NotServing):
        return Unsupported(f"{where} answered 404; its url is wrong (it has to be Ollama's root), or it is too old")
    if isinstance(found, BackendUnauthenticated) and "signin_url" in plain:
        return BackendUnauthenticated(f"{said}; it has to be signed in to Ollama's cloud (ollama signin)")
    if isinstance(found, BackendUnauthenticated) and key is None:
        return BackendUnauthenticated(f"{said}; send a key as ollama_api_key in the provider data")
    return found


def _unwrapped(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the runner said, where Ollama passes that on as text."""
    said: Any = body.get("error")
    if isinstance(said, str) and said.startswith("{"):
        with suppress(ValueError):
            inner: Any = from_json(said)
            if isinstance(inner, dict):
                return cast("dict[str, Any]", inner)
    return body
