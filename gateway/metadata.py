"""What of a call's metadata goes on, and what it says to the gateway."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import getrandbits
from typing import Final, cast
from urllib.parse import unquote

import grpc

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
_LOOKED_AT: Final = _REMOVED | {*_PROVIDER_DATA, headers.ROUTE, headers.REQUEST_ID, headers.TRACEPARENT}
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(slots=True)
class Incoming:
    """A call's metadata, read once."""

    forwarded: list[Pair]
    """What goes on, with a request id and a traceparent in any case."""
    request_id: str
    route: str | None
    """The value of `x-stackmesh-route`."""


class Sent(grpc.aio.Metadata):
    """Metadata that is only sent: grpc makes a tuple of it, so the index by key that costs so much is left out."""

    def __init__(self, *pairs: Pair) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._pairs)


def read(metadata: Iterable[Pair]) -> Incoming:
    """Raises InvalidProviderData or InvalidRoute for what contradicts itself, or is not what it has to be."""
    forwarded: list[Pair] = []
    looked_at: list[Pair] = []
    for pair in metadata:
        (looked_at if pair[0] in _LOOKED_AT else forwarded).append(pair)
    request_id = traceparent = route = provider_data = None
    for key, value in looked_at:
        if key in _PROVIDER_DATA:
            provider_data = _same(provider_data, value, InvalidProviderData(f"{headers.PROVIDER_DATA} came twice"))
        elif key == headers.ROUTE:
            route = _same(route, value, InvalidRoute(f"{headers.ROUTE} came twice"))
        elif key == headers.REQUEST_ID:
            request_id = request_id or value
        elif key == headers.TRACEPARENT:
            traceparent = traceparent or value
    if provider_data is not None:
        _check_provider_data(provider_data)
        forwarded.append((headers.PROVIDER_DATA, provider_data))
    if route is not None:
        forwarded.append((headers.ROUTE, route))
    request_id = request_id or f"{getrandbits(128):032x}"  # names calls and guards nothing; urandom is a system call
    forwarded.append((headers.REQUEST_ID, request_id))
    forwarded.append((headers.TRACEPARENT, traceparent or _traceparent()))
    return Incoming(forwarded, cast("str", request_id), cast("str | None", route))


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


def _traceparent() -> str:
    """A new trace by W3C Trace Context, version 00, not sampled: nothing was recorded here."""
    return f"00-{getrandbits(128) | 1:032x}-{getrandbits(64) | 1:016x}-00"  # all zeros would be invalid
