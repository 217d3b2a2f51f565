"""A store in one SQLite file, for one registry process.

All SQL runs in one thread, each transaction as one function call: whoever stops waiting for it cannot leave half of
it. A watcher holds nothing but its place in the log; it reads on when the revision has advanced.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, closing
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from registry_service.sqlite import file as sqlite_file, leftover
from registry_service.sqlite.lock import Lock, locked
from registry_service.sqlite.log import Log
from registry_service.sqlite.path import real
from registry_service.store import Commit, Op, Page, Row, check
from stackmesh.bell import Bell
from stackmesh.errors import MeshError, RegistryUnreachable, StoreFull, Unavailable
from stackmesh.process import StartError
from stackmesh.tasks import background

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class SqliteStore:
    """Implements Store. Opening it raises StartError if the file cannot be used; it is made if there is none."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        checkpoint_seconds: float = 3.0,
        sweep_seconds: float = 0.5,
        patience_seconds: float = 2.5,
    ) -> None:
        """`clock` is what leases live by; expired ones are looked for every `sweep_seconds`. A disk that does not
        answer is given `patience_seconds`.
        """
        self._path = path
        self._clock = clock
        self._checkpoint_seconds = checkpoint_seconds
        self._sweep_seconds = sweep_seconds
        self._patience_seconds = patience_seconds
        self._resources = AsyncExitStack()
        self._thread: ThreadPoolExecutor | None = None
        self._opened: Log | None = None
        self._files: tuple[tuple[int, int] | None, ...] = ()  # that are open
        self._head = 0
        self._advanced = Bell()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._loop = asyncio.get_running_loop()
            self._path = real(self._path)
            lock = stack.enter_context(locked(self._path))
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
            stack.push_async_callback(self._end_thread, self._thread)
            opened = await self._loop.run_in_executor(
                self._thread, self._open, lock
            )  # however long it takes to recover
            stack.push_async_callback(self._loop.run_in_executor, self._thread, opened.close)
            self._opened = opened
            await stack.enter_async_context(background(self._sweep(), "lease sweeper"))
            self._resources = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    async def store_id(self) -> str:
        return self._log.store_id

    async def revision(self) -> int:
        return await self._run(self._log.revision)

    async def get(self, key: str) -> Row | None:
        return await self._run(self._log.get, key)

    async def list(self, prefix: str, *, after: str = "", limit: int = 500, revision: int | None = None) -> Page:
        return await self._run(self._log.list, prefix, after, limit, revision)

    async def commit(self, ops: Sequence[Op], *, expect: Mapping[str, int] | None = None) -> int:
        expect = dict(expect or {})
        check(ops, expect)
        return await self._run(self._advance, self._log.commit, tuple(ops), expect)

    async def watch(self, start_revision: int) -> AsyncGenerator[Commit]:
        following = start_revision
        while True:
            advanced = self._advanced.next  # taken before the read, so that no commit after it is missed
            commits, head = await self._run(self._log.commits, following)
            for commit in commits:
                yield commit
                following = commit.revision + 1
            if not commits and not await self._within_checkpoint(advanced):
                yield Commit(revision=head, changes=())

    async def compact(self, revision: int) -> None:
        following = 0 if await self._run(self._log.compact, revision) else revision
        while following < revision:
            following = await self._run(self._log.forget, following, revision)

    async def grant(self, ttl: float) -> int:
        return await self._run(self._log.grant, ttl)

    async def keep_alive(self, lease: int) -> bool:
        return await self._run(self._log.keep_alive, lease)

    async def revoke(self, lease: int) -> None:
        await self._run(self._advance, self._log.revoke, lease)

    @property
    def _log(self) -> Log:
        if self._thread is None or self._opened is None:
            raise Unavailable("the registry's store is closed")
        return self._opened

    def _checked(self, work: Callable[[], T]) -> T:
        """In the thread. What is written into a file that nobody finds again is lost: better to write nothing."""
        if self._files != sqlite_file.identity(self._path):
            raise RegistryUnreachable(
                f"the registry's store {self._path}, or its -wal or -shm, was deleted or replaced while it was open: "
                "restart the registry"
            )
        return work()

    def _open(self, lock: Lock) -> Log:
        leftover.check(self._path, lock.note)
        with ExitStack() as stack:
            connection = stack.enter_context(closing(sqlite_file.connect(self._path)))
            try:
                opened = Log(connection, self._clock)
            except sqlite3.Error as error:
                raise StartError(f"the registry's store {self._path} is damaged: {error}") from None
            self._files = sqlite_file.identity(self._path)  # all of them, now that something was read
            lock.leave(leftover.note(self._path))
            stack.pop_all()
        return opened

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._thread is None:
            raise Unavailable("the registry's store is closed")
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await self._loop.run_in_executor(self._thread, self._checked, lambda: work(*args, **kwargs))
        except TimeoutError:  # what the thread has not begun it never will
            raise RegistryUnreachable(
                f"the registry's store did not answer within {self._patience_seconds:g} s: "
                f"look at the disk of {self._path}, and for who else has it open"
            ) from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # what Python's module raises by itself has none
            if code == sqlite3.SQLITE_FULL:
                raise StoreFull(f"the registry's store is full: make room on the disk of {self._path}") from error
            where = f": look at the disk of {self._path} and at the limit of file sizes (ulimit -f)"
            hint = where if code == sqlite3.SQLITE_IOERR else ""
            raise RegistryUnreachable(f"the registry's store cannot be used: {error}{hint}") from error

    def _advance(self, write: Callable[..., int], *args: object) -> int:
        revision = write(*args)
        # From the thread, since the writer may have stopped waiting.
        self._loop.call_soon_threadsafe(self._tell, revision)
        return revision

    def _tell(self, revision: int) -> None:
        if revision > self._head:
            self._head = revision
            self._advanced.ring()

    async def _within_checkpoint(self, advanced: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self._checkpoint_seconds):
                await advanced.wait()
        except TimeoutError:
            return False
        return True

    async def _sweep(self) -> None:
        """Goes on whatever happens: without it no lease would end any more."""
        said = ""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            problem = await self._end_leases()
            if problem is not None and str(problem) != said:  # said once, not twice a second
                bug = None if isinstance(problem, MeshError) else problem
                log.warning("leases could not be swept: %s", problem, exc_info=bug)
            said = str(problem)

    async def _end_leases(self) -> Exception | None:
        """End those whose time is up, each for itself. Returns one of the failures."""
        problem = None
        try:
            ended = await self._run(self._log.ended)
        except Exception as error:  # noqa: BLE001 -- it is logged
            return error
        for lease in ended:
            try:
                await self._run(self._advance, self._log.revoke, lease)
            except Exception as error:  # noqa: BLE001 -- it is logged, and the others can do nothing for it
                problem = error
        return problem

    async def _end_thread(self, thread: ThreadPoolExecutor) -> None:
        self._thread = None
        self._advanced.ring()  # watchers find the store closed
        await asyncio.to_thread(thread.shutdown)

    def __repr__(self) -> str:
        return f"<SqliteStore {self._path} [{'open' if self._thread else 'closed'}, revision {self._head}]>"
