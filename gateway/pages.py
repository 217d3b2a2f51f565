"""Pages of what a snapshot holds, in the order of its keys.

Only keys are pinned, not the snapshot: a page begins after the last key of the one before, whatever came and went.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from stackmesh import pages

Key = TypeVar("Key", bound=tuple[int, str])
"""A number that groups, as the type of a resource does, and a name."""
Entry = TypeVar("Entry", bound=Message)


class Asked(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


def read_page(
    name: str, keys: Sequence[Key], group: int, make: Callable[[Key], Entry], asked: Asked
) -> tuple[list[Entry], str]:
    """A page of the list `name`, and the token of the next one: empty on the last.

    `keys` are in order; of group 0 are all of them. An entry is made only when the page comes to it. Raises
    InvalidField and InvalidPageToken.
    """
    limit, listing = pages.limit(asked.page_size), f"{name} {group}"
    begin = bisect(keys, _key(pages.unseal(listing, asked.page_token)) if asked.page_token else (group, ""))
    end = bisect(keys, (group + 1, "")) if group else len(keys)
    page: list[Entry] = []
    room = pages.PAGE_BYTES
    for key in keys[begin : min(begin + limit, end)]:
        entry = make(key)
        room -= entry.ByteSize()
        if page and room < 0:
            break
        page.append(entry)
    after = begin + len(page)
    return page, pages.seal(listing, _place(keys[after - 1])) if after < end else ""


def _place(key: tuple[int, str]) -> str:
    return f"{key[0]}:{key[1]}"


def _key(place: str) -> tuple[int, str]:
    group, _, name = place.partition(":")
    return int(group), name
