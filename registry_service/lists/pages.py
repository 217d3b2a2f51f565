"""Pages of a list at one revision: the first fixes the revision, its token carries it to the next."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from registry_service.store import Page, Row, Store, pages as pages_under
from stackmesh import pages
from stackmesh.errors import RevisionGone


def _all(_row: Row) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Listing:
    """One kind of list, of one store."""

    name: str
    """Tokens of a list are good for lists of the same name only."""
    prefix: str | tuple[str, ...]
    """Of its keys; or several, none of which begins with another."""
    default_size: int = pages.DEFAULT
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
    store_id: str
    next_token: str
    """Empty on the last page."""


async def read_page(store: Store, listing: Listing, size: int, token: str) -> ListPage:
    """One page. Raises InvalidField, InvalidPageToken, or RevisionGone when the list has been left for too long, or was
    begun in what is another store by now: a SQLite registry's is at each start.
    """
    limit = pages.limit(size, listing.default_size)
    store_id = await store.store_id()
    revision, after = _place(pages.unseal(listing.name, token), store_id) if token else (None, "")
    rows: list[Row] = []
    room, at, following = pages.PAGE_BYTES, 0, ""
    async with aclosing(_scan(store, listing, after, limit + 1, revision)) as scanned:
        async for page in scanned:
            at = page.revision
            for row in filter(listing.keep, page.rows):
                room -= len(row.key) + len(row.value)
                if len(rows) == limit or (rows and room < 0):
                    following = pages.seal(listing.name, f"{store_id}:{at}:{rows[-1].key}")
                    break
                rows.append(row)
            if following:
                break
    if store_id != await store.store_id():
        raise RevisionGone("the store has become another one: list again")
    return ListPage(rows=tuple(rows), revision=at, store_id=store_id, next_token=following)


async def _scan(store: Store, listing: Listing, after: str, limit: int, revision: int | None) -> AsyncGenerator[Page]:
    """What may be on the page, in order, all at one revision."""
    for prefix in listing.prefixes:
        if after > prefix and not after.startswith(prefix):
            continue  # it came before
        last = after if after.startswith(prefix) else ""
        async with aclosing(pages_under(store, prefix, after=last, limit=limit, revision=revision)) as found:
            async for page in found:
                yield page
                revision = page.revision


def _place(told: str, store_id: str) -> tuple[int, str]:
    begun_in, revision, after = told.split(":", 2)
    if begun_in != store_id:
        raise RevisionGone("the list was begun before the registry's store was opened again, or in another: list again")
    return int(revision), after
