"""Pictures by value."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from stackmesh.common.v1 import content_pb2
from stackmesh.errors import InvalidField, Unsupported

_SIGNATURES: Final[Sequence[tuple[bytes, bytes, str]]] = (
    (b"\x89PNG\r\n\x1a\n", b"", "image/png"),
    (b"\xff\xd8\xff", b"", "image/jpeg"),
    (b"RIFF", b"WEBP", "image/webp"),
)


def mime_type(data: bytes) -> str:
    """What its first bytes say that it is. Raises InvalidField for what few models read."""
    for start, inside, mime_type in _SIGNATURES:
        if data.startswith(start) and inside in data[8:12]:
            return mime_type
    raise InvalidField("image.data", "is none of PNG, JPEG, WebP")


def by_value(image: content_pb2.Image, backend: str) -> bytes:
    """The picture itself, for a backend that follows no URL: its data, or what its `data:` URL holds (RFC 2397).

    Raises Unsupported for one that is elsewhere, InvalidField for what is no picture.
    """
    data = image.data
    if image.HasField("uri"):
        if not image.uri[:5].lower() == "data:":
            raise Unsupported(f"{backend} takes an image by value only: send its data, or a data: URL")
        data = _held(image.uri[5:])
    mime_type(data)
    return data


def _held(url: str) -> bytes:
    kind, comma, data = url.partition(",")
    if not comma:
        raise InvalidField("image.uri", "is no data: URL: it has no comma")
    raw = unquote_to_bytes(data)
    if not kind.lower().endswith(";base64"):
        return raw
    try:
        return b64decode(raw, validate=True)
    except binascii.Error:
        raise InvalidField("image.uri", "is no data: URL: what follows the comma is not base64") from None
