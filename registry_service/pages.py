"""Pages of a list at one revision: the first fixes the revision, its token carries it to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import Final

from registry_service.store import Row, Store
from stackmesh.errors import InvalidField, InvalidPageToken

MOST: Final = 1000
_SEAL_BYTES: Final = 12


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of list, of one store."""

    name: str
    prefix: str
    default_size: int = 100


@dataclass(frozen=True, slots=True)
class ListPage:
    rows: tuple[Row, ...]
    revision: int
    next_token: str
    """Empty on the last page."""


async def read_page(store: Store, listing: Listing, size: int, token: str) -> ListPage:
    """One page. Raises InvalidField, InvalidPageToken, or RevisionGone when the list has been left for too long."""
    if size < 0:
        raise InvalidField("page_size", "is negative")
    revision, after = _open(token, listing.name, store.store_id) if token else (None, "")
    limit = min(size or listing.default_size, MOST)
    page = await store.list(listing.prefix, after=after, limit=limit, revision=revision)
    following = _seal(listing.name, store.store_id, page.revision, page.rows[-1].key) if page.more else ""
    return ListPage(rows=page.rows, revision=page.revision, next_token=following)


def _seal(name: str, store_id: str, revision: int, after: str) -> str:
    place = f"{revision}:{after}".encode()
    return base64.urlsafe_b64encode(_digest(name, store_id, place) + place).decode()


def _open(token: str, name: str, store_id: str) -> tuple[int, str]:
    try:
        raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPageToken("page_token is not one that was given out") from None
    place = raw[_SEAL_BYTES:]
    if raw[:_SEAL_BYTES] != _digest(name, store_id, place):
        raise InvalidPageToken("page_token belongs to another list, or was altered")
    revision, _, after = place.decode().partition(":")
    return int(revision), after


def _digest(name: str, store_id: str, place: bytes) -> bytes:
    """Against mistakes, not against attackers: who could forge a token may list everything anyhow."""
    return hashlib.blake2b(
        place, digest_size=_SEAL_BYTES, key=store_id.encode()[:64], person=name.encode()[:16]
    ).digest()
