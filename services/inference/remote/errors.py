"""What a backend means by its errors.

The forms of its body: `{"error": {"message": ...}}` (OpenAI, vLLM, llama.cpp), `{"message": ...}` (vLLM before 0.10),
`{"detail": ...}` (FastAPI), `{"error": "in short", "message": ...}` (Fireworks). A backend's text is passed on clipped,
without anything that looks like a key.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Protocol, cast

from pydantic_core import from_json

from stackmesh.errors import (
    BackendPermissionDenied,
    BackendRejected,
    BackendUnauthenticated,
    BackendUnreachable,
    ContextExceeded,
    Internal,
    MeshError,
    NotServing,
    RateLimited,
    Timeout,
    Unsupported,
)

TEXT_LIMIT: Final = 300
"""Characters of a backend's text that are passed on."""
_RETRY_LIMIT: Final = 86400.0

_BY_STATUS: Final[Mapping[int, type[MeshError]]] = {
    401: BackendUnauthenticated,
    402: BackendPermissionDenied,  # the account has to be paid for
    403: BackendPermissionDenied,
    405: Unsupported,
    408: Timeout,
    412: NotServing,  # Fireworks: the account is suspended, or the model could not be loaded
    501: Unsupported,
    502: BackendUnreachable,
    503: BackendUnreachable,
    504: Timeout,
}

_KEY: Final = re.compile(r"(?i)\bbearer\s+\S+|\b(?:sk|pk|rk|hf|gsk|nvapi|fw|tgp|dapi|xai|key|token)[-_][\w*.-]{4,}")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f]+")


@contextmanager
def sensible(where: str) -> Generator[None]:
    """An answer that lacks what it must have is Internal."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise Internal(f"the answer of {where} does not have the form of its API") from None


class Refusal(Protocol):
    """What `refusal` is. An adapter whose backend has words of its own gives Http another one."""

    def __call__(
        self, where: str, status: int, body: bytes, *, retry_after: str = "", key: str | None = None
    ) -> MeshError: ...


def refusal(where: str, status: int, body: bytes, *, retry_after: str = "", key: str | None = None) -> MeshError:
    """The error of an answer whose status is not 200. `where` names the backend, `key` is what must not be shown."""
    return meaning(where, status, _json(body), retry_after=retry_after, key=key)


def meaning(where: str, status: int, body: Any, *, retry_after: str = "", key: str | None = None) -> MeshError:
    """As `refusal`, from the JSON of the answer, or of an error event inside a stream."""
    error = _error(body)
    text = _clean(_text(error), key)
    said = f"{where} answered {status}" + (f": {text}" if text else "")
    if status == 429:
        return RateLimited(said, retry_after=seconds(retry_after))
    if status == 404:
        absent = f"{said}; it does not offer this, or its url is wrong (most end in /v1)"
        return NotServing(said) if _names_model(error) else Unsupported(absent)
    if 300 <= status < 400:
        return BackendUnreachable(f"{said}, a redirection; set url to where the backend really is")
    if kind := _BY_STATUS.get(status):
        return kind(said)
    if 400 <= status < 500:
        return _over_context(error) or BackendRejected(said)
    return Internal(said)


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        return None  # a proxy's page, as a rule: its text says nothing to a caller


def _error(body: Any) -> Mapping[str, Any]:
    """The object that describes the error, whichever form it has."""
    if not isinstance(body, dict):
        return {}
    whole = cast("dict[str, Any]", body)
    inner: Any = whole.get("error", whole)
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {"message": inner, **whole}


def _text(error: Mapping[str, Any]) -> str:
    text: Any = error.get("message") or error.get("detail") or ""
    return text if isinstance(text, str) else str(text)


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """A backend's text as it is passed on."""
    for secret in secrets:
        text = text.replace(secret, "[redacted]")
    return _clean(text, None)


def _clean(text: str, key: str | None) -> str:
    text = _UNPRINTABLE.sub(" ", text)
    if key:
        text = text.replace(key, "[redacted]")
        if len(key) >= 8:  # some servers show its beginning and stars
            text = re.sub(re.escape(key[:6]) + r"\S*", "[redacted]", text)
    text = _KEY.sub("[redacted]", text).strip()
    return text if len(text) <= TEXT_LIMIT else text[: TEXT_LIMIT - 3] + "..."


def _names_model(error: Mapping[str, Any]) -> bool:
    return error.get("param") == "model" or error.get("code") == "model_not_found" or "model" in _text(error).lower()


# OpenAI's and vLLM's words (which vLLM changed often), llama.cpp's, Fireworks', and Together's.
_CONTEXT: Final = re.compile(
    r"maximum context length is (\d+) tokens"
    r"|context length is only (\d+) tokens"
    r"|context size \((\d+) tokens\)"
    r"|maximum context length: (\d+)"
    r"|`max_new_tokens` must be <= (\d+)"
)
_PROMPT: Final = re.compile(
    r"(?:contains|has)(?: at least)? (\d+) input tokens"
    r"|[Yy]ou passed (\d+) input tokens"
    r"|\((\d+) in the (?:messages|prompt)"
    r"|resulted in (\d+) tokens"
    r"|requested (\d+) tokens in the (?:input|messages)"
    r"|request \((\d+) tokens\)"
    r"|prompt is too long: (\d+)"
    r"|Given: (\d+) `inputs` tokens"
)


def _over_context(error: Mapping[str, Any]) -> ContextExceeded | None:
    """ContextExceeded if the prompt alone is too long; a `max_tokens` that is too large is the backend's to explain."""
    prompt, context = error.get("n_prompt_tokens"), error.get("n_ctx")  # llama.cpp
    if not isinstance(prompt, int) or not isinstance(context, int):
        prompt, context = _number(_PROMPT, _text(error)), _number(_CONTEXT, _text(error))
    if prompt is None or context is None or prompt < context:
        return None
    return ContextExceeded(prompt, context)


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(next(filter(None, found.groups()))) if found else None


def seconds(retry_after: str) -> float | None:
    """`Retry-After` is seconds or an HTTP date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # absent, nonsense, or a date without a zone
            return None
    return max(0.0, min(seconds, _RETRY_LIMIT))
