"""Pictures by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stackmesh.errors import InvalidField

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
