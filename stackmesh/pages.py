"""What all lists have in common: how large a page is, and the token that leads from one page to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from stackmesh.errors import InvalidField, InvalidPageToken

DEFAULT: Final = 100
MOST: Final = 1000
PAGE_BYTES: Final = 2 * 1024 * 1024
"""Of a page with more than one entry. gRPC's clients take messages of 4 MiB by default."""
_SEAL_BYTES: Final = 12


def limit(page_size: int, default: int = DEFAULT) -> int:
    """How many entries a page has at most. Raises InvalidField."""
    if page_size < 0:
        raise InvalidField("page_size", "is negative")
    return min(page_size or default, MOST)


def seal(listing: str, place: str) -> str:
    """The token of a place in a list, and in no other."""
    return base64.urlsafe_b64encode(_digest(listing, place.encode()) + place.encode()).decode()


def unseal(listing: str, token: str) -> str:
    """The place. Raises InvalidPageToken."""
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken("page_token is not one that was given out") from None
    place = raw[_SEAL_BYTES:]
    if raw[:_SEAL_BYTES] != _digest(listing, place):
        raise InvalidPageToken("page_token belongs to another list, or was altered")
    return place.decode()


def _digest(listing: str, place: bytes) -> bytes:
    """Against mistakes, not against attackers: who could forge a token may list everything anyhow."""
    return hashlib.blake2b(f"{listing}\n".encode() + place, digest_size=_SEAL_BYTES).digest()
