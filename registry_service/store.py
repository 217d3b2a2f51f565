"""The store the registry is kept in: what every store promises. tests/contracts/store.py holds each sentence.

A store is a map from keys to values with one counter. Each commit is one revision, greater than all before it; between
two of them others may lie that belong to somebody else, where several meshes share one store. Every revision can be
watched, and read again until it is compacted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

COMMIT_LIMIT: Final = 50
"""Changes in one commit."""
EXPECT_LIMIT: Final = 100
"""Keys of which one commit expects something. etcd takes 128 comparisons in a transaction, and 128 operations."""


@dataclass(frozen=True, slots=True)
class Row:
    """A key as it is at one revision."""

    key: str
    value: bytes
    revision: int
    """That last wrote it."""
    lease: int = 0
    """It vanishes with this lease. 0: it stays."""


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list."""

    rows: tuple[Row, ...]
    """In the order of their keys' bytes."""
    revision: int
    """At which it was read. Pass it on for the next page."""
    more: bool
    """Whether there is a next page, after the last row's key."""


@dataclass(frozen=True, slots=True)
class Commit:
    """One whole revision."""

    revision: int
    changes: tuple[Row | Delete, ...]
    """In the order of their keys. Empty in a checkpoint: everything up to `revision` has been delivered."""


class Store(Protocol):
    """Linearizable, durable: what a call acknowledges survives the process, and every later call sees it.

    Every method raises RegistryUnreachable within 3 s when the store cannot be reached, for whatever reason, which the
    message names; a write's outcome is then unknown. A write that finds no room raises StoreFull, one that is too large
    to be written at all RequestTooLarge; neither has changed anything. A cancelled write happens whole or not at all.
    Keys are ASCII, from 1 byte on. A store is opened and closed by `async with`; opening it raises StartError for what
    somebody has to change first, and does not wait for a server that cannot be reached.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def store_id(self) -> str:
        """Which store this is. Revisions of different stores cannot be compared. It is another one whenever what was
        read before may never have been: after other data were put in its place, or could have been.
        """
        ...

    async def revision(self) -> int:
        """The revision of the last commit or revocation; no watch is at it before it has delivered all of those.

        It never falls while the store is the same. What ended leases took along may be later than it; so may what
        revoked ones did, if the store was full.
        """
        ...

    async def get(self, key: str) -> Row | None:
        """The key now, or None."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 500, revision: int | None = None) -> Page:
        """At most `limit` rows whose key begins with `prefix` and is greater than `after`, at a revision (None: now).

        Fewer, when they are too large to be had at once. Raises RevisionGone if that revision is compacted or lies in
        the future.
        """
        ...

    async def commit(self, ops: Sequence[Op], *, expect: Mapping[str, int] | None = None) -> int:
        """Apply all of 1 to COMMIT_LIMIT ops as one new revision, or none of them. Returns the revision.

        `expect` maps keys to the revision that must have last written them, 0 meaning that the key must not exist;
        otherwise Conflict is raised and nothing is changed. Deleting a key that does not exist changes nothing; a
        commit that changes nothing makes no revision and returns the current one. A Put whose lease is not alive raises
        Conflict. Too many ops, none, two for one key, or more than EXPECT_LIMIT expectations: ValueError.
        """
        ...

    def watch(self, start_revision: int) -> AsyncGenerator[Commit]:
        """Every commit from `start_revision` on, whole and in order, for ever; a checkpoint when there is nothing new
        for some seconds, given only if the store has just been heard.

        Raises RevisionGone if `start_revision` is compacted, lies beyond the next revision, or belongs to data that
        has been replaced; RegistryUnreachable within 10 s when the store falls silent. A slow reader holds up nobody
        and costs little memory; it may find its place compacted.
        """
        ...

    async def compact(self, revision: int) -> None:
        """Forget what was overwritten or deleted before `revision`; what is older can no longer be read or watched.

        `revision` itself can. Compacting again up to the same or an older one does nothing; a future one raises
        RevisionGone.
        """
        ...

    async def grant(self, ttl: float) -> int:
        """A new lease that lives at least `ttl` seconds from each sign of life, and from a restart of the store itself.

        Its id was never used before. Makes no revision.
        """
        ...

    async def keep_alive(self, lease: int) -> bool:
        """A sign of life. False: the lease has ended, its keys are gone or going. Makes no revision."""
        ...

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys, in as few commits as the store can. An ended lease is no error, nor is a
        store that is full.

        A key that was since put without the lease, or with another one, stays.
        """
        ...


async def pages(
    store: Store, prefix: str, *, after: str = "", limit: int = 500, revision: int | None = None
) -> AsyncGenerator[Page]:
    """Every row under a prefix, as `list` gives them, page after page at one revision."""
    more = True
    while more:
        page = await store.list(prefix, after=after, limit=limit, revision=revision)
        yield page
        more, revision = page.more, page.revision
        after = page.rows[-1].key if more else ""


def check(ops: Sequence[Op], expect: Mapping[str, int]) -> None:
    """Raises ValueError for what no store commits."""
    keys = [op.key for op in ops]
    if not 1 <= len(keys) <= COMMIT_LIMIT or len(set(keys)) < len(keys):
        raise ValueError(f"a commit has 1 to {COMMIT_LIMIT} changes, of different keys")
    if len(expect) > EXPECT_LIMIT:
        raise ValueError(f"a commit expects something of {EXPECT_LIMIT} keys at most")
    if not all(key and key.isascii() for key in (*keys, *expect)):
        raise ValueError("keys are ASCII and not empty")
