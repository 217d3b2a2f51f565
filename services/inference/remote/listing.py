"""What a backend says that it serves, asked at most every two seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from services.inference.remote.keys import mark
from stackmesh import names
from stackmesh.errors import InvalidField, MeshError, NotHosted

_TTL: Final = 2.0
"""Seconds a list is good for."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """An answer. Times are time.monotonic()."""

    begun: float
    until: float
    """It is good until then."""
    asker: bytes
    """The `mark` of the credential: a caller's own is not kept."""
    found: Sequence[str] | MeshError


class Lookup(Protocol):
    """What names mean: a ModelLookup, or one that knows a backend's own ways with them."""

    def resolve(self, name: str, served: Collection[str] | None, where: str) -> str:
        """As ModelLookup has it."""
        ...


class Listing:
    """`ask` asks the backend with a credential for the names of its models."""

    def __init__(self, ask: Callable[[str | None], Awaitable[Sequence[str]]], lookup: Lookup, where: str) -> None:
        self._ask = ask
        self._lookup = lookup
        self._where = where
        self._lock = asyncio.Lock()
        self._last = _Listed(0.0, 0.0, b"", ())
        self._changed_at = 0.0

    def forget(self) -> None:
        """What the backend serves has changed: what was found, or is being asked for, holds no longer."""
        self._changed_at = time.monotonic()

    async def names(self, key: str | None) -> Sequence[str]:
        """Those that can be registered. What was found, or failed, holds for 2 s."""
        return await self._fresh(key, lambda last: time.monotonic() < last.until)

    async def resolve(self, name: str, key: str | None) -> str:
        """The backend's own name for `name`. What is not in an older list may have come since."""
        now = time.monotonic()
        try:
            return self._lookup.resolve(name, await self.names(key), self._where)
        except NotHosted:
            return self._lookup.resolve(name, await self._fresh(key, lambda last: last.begun >= now), self._where)

    async def _fresh(self, key: str | None, good: Callable[[_Listed], bool]) -> Sequence[str]:
        """As last listed, if that is good enough."""
        async with self._lock:
            if self._last.asker != mark(key) or self._last.begun < self._changed_at or not good(self._last):
                begun = time.monotonic()
                found = await self._found(key)
                self._last = _Listed(begun, time.monotonic() + _TTL, mark(key), found)
            found = self._last.found
        if isinstance(found, MeshError):
            raise found
        return found

    async def _found(self, key: str | None) -> Sequence[str] | MeshError:
        try:
            return [name for name in await self._ask(key) if _can_be_registered(name)]
        except MeshError as error:
            return error


def _can_be_registered(name: str) -> bool:
    try:
        names.check_resource_name("", name)
    except InvalidField:
        return False
    return True
