"""What of a call's metadata goes on, and what it says to the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from random import getrandbits
from typing import Final, cast
from urllib.parse import unquote

from stackmesh import headers
from stackmesh.errors import InvalidProviderData, InvalidRoute

Pair = tuple[str, str | bytes]

_REMOVED: Final = frozenset(
    {
        *headers.ROUTED,  # whatever a client says of these, it is not the gateway that says it
        headers.SERVED_BY,
        headers.REVISION,
        # Of this hop alone, or gRPC's own.
        "connection",
        "content-type",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-internal-encoding-request",
        "grpc-message",
        "grpc-message-type",
        "grpc-previous-rpc-attempts",
        "grpc-retry-pushback-ms",
        "grpc-status",
        "grpc-timeout",
    }
)
_PROVIDER_DATA: Final = (headers.PROVIDER_DATA, *headers.PROVIDER_DATA_ALIASES)
_MEANT: Final = frozenset((*_PROVIDER_DATA, headers.ROUTE, headers.REQUEST_ID, headers.TRACEPARENT))
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def read(metadata: Iterable[Pair]) -> tuple[list[Pair], str | None]:
    """What goes on, with a request id and a traceparent in any case; and the value of `x-stackmesh-route`.

    Raises InvalidProviderData or InvalidRoute for what contradicts itself, or is not what it has to be.
    """
    forwarded: list[Pair] = []
    meant: list[Pair] = []
    for pair in metadata:
        key = pair[0]
        if key in _REMOVED:
            continue
        (meant if key in _MEANT else forwarded).append(pair)
    if not meant:
        forwarded += _correlation()
        return forwarded, None
    return _meant(meant, forwarded)


def _meant(meant: list[Pair], forwarded: list[Pair]) -> tuple[list[Pair], str | None]:
    (_, request_id), (_, traceparent) = _correlation()
    route = provider_data = None
    for key, value in reversed(meant):  # the first of several counts
        if key in _PROVIDER_DATA:
            provider_data = _same(provider_data, value, InvalidProviderData(f"{headers.PROVIDER_DATA} came twice"))
        elif key == headers.ROUTE:
            route = _same(route, value, InvalidRoute(f"{headers.ROUTE} came twice"))
        elif key == headers.REQUEST_ID:
            request_id = value or request_id
        else:
            traceparent = value or traceparent
    if provider_data is not None:
        _check_provider_data(provider_data)
        forwarded.append((headers.PROVIDER_DATA, provider_data))
    if route is not None:
        forwarded.append((headers.ROUTE, route))
    forwarded += ((headers.REQUEST_ID, request_id), (headers.TRACEPARENT, traceparent))
    return forwarded, cast("str | None", route)


def _correlation() -> tuple[Pair, Pair]:
    """A request id, and a new trace by W3C Trace Context, version 00, not sampled: nothing was recorded here.

    They name a call and guard nothing, so the random numbers need no system call.
    """
    digits = f"{getrandbits(320):080x}"
    return (headers.REQUEST_ID, digits[:32]), (headers.TRACEPARENT, f"00-{digits[32:64]}-{digits[64:]}-00")


def answered(metadata: Iterable[Pair]) -> list[Pair]:
    """What of an answer's initial metadata goes back: all but what only the gateway says."""
    return [pair for pair in metadata if pair[0] not in _REMOVED]


def route_name(route: str, word: str) -> str:
    """The name in `model=NAME`, percent-decoded once. `word` is the type the method wants. Raises InvalidRoute."""
    key, equals, value = route.partition("=")
    if not equals or key != word:
        raise InvalidRoute(f"{headers.ROUTE} must be {word}=NAME for this method")
    if _BAD_ESCAPE.search(value):
        raise InvalidRoute(f"{headers.ROUTE}: a % must begin an escape of two hexadecimal digits")
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRoute(f"{headers.ROUTE}: the escapes are not UTF-8") from None


def _same(before: str | bytes | None, value: str | bytes, error: Exception) -> str | bytes:
    if before is not None and before != value:
        raise error
    return value


def _check_provider_data(value: str | bytes) -> None:
    if len(value) > headers.PROVIDER_DATA_LIMIT:
        limit = headers.PROVIDER_DATA_LIMIT
        raise InvalidProviderData(f"{headers.PROVIDER_DATA} has {len(value)} bytes, at most {limit} are allowed")
    try:
        good = isinstance(json.loads(value), dict)
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise InvalidProviderData(f"{headers.PROVIDER_DATA} is not a JSON object")
