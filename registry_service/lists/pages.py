"""Pages of a list at one revision: the first fixes the revision, its token carries it to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from registry_service.store import Page, Row, Store
from stackmesh.errors import InvalidField, InvalidPageToken

MOST: Final = 1000
PAGE_BYTES: Final = 2 * 1024 * 1024
"""Of a page with more than one row. gRPC's clients take messages of 4 MiB by default."""
_SEAL_BYTES: Final = 12


def _all(_row: Row) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of list, of one store."""

    name: str
    """Tokens of a list are good for lists of the same name only."""
    prefix: str | tuple[str, ...]
    """Of its keys; or several, none of which begins with another."""
    default_size: int = 100
    keep: Callable[[Row], bool] = _all
    """Which of the rows are in it."""

    @property
    def prefixes(self) -> list[str]:
        """In the order of their keys."""
        return [self.prefix] if isinstance(self.prefix, str) else sorted(self.prefix)


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
    store_id = await store.store_id()
    revision, after = _open(token, listing.name, store_id) if token else (None, "")
    limit = min(size or listing.default_size, MOST)
    rows: list[Row] = []
    room, at, following = PAGE_BYTES, 0, ""
    async with aclosing(_scan(store, listing, after, limit + 1, revision)) as pages:
        async for page in pages:
            at = page.revision
            for row in filter(listing.keep, page.rows):
                room -= len(row.key) + len(row.value)
                if len(rows) == limit or (rows and room < 0):
                    following = _seal(listing.name, store_id, at, rows[-1].key)
                    break
                rows.append(row)
            if following:
                break
    return ListPage(rows=tuple(rows), revision=at, next_token=following)


async def _scan(store: Store, listing: Listing, after: str, limit: int, revision: int | None) -> AsyncGenerator[Page]:
    """What may be on the page, in order, all at one revision."""
    for prefix in listing.prefixes:
        if after > prefix and not after.startswith(prefix):
            continue  # it came before
        last, more = after if after.startswith(prefix) else "", True
        while more:
            page = await store.list(prefix, after=last, limit=limit, revision=revision)
            yield page
            revision, more = page.revision, page.more
            last = page.rows[-1].key if page.rows else ""


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
    sealed = f"{store_id}\n{name}\n".encode() + place
    return hashlib.blake2b(sealed, digest_size=_SEAL_BYTES).digest()
