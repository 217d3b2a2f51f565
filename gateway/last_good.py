"""The last good snapshot in a file, for a gateway that starts while there is no registry.

    stackmesh-snapshot 3 SHA-256 HEARD MESH, and the end of the line
    ListEntriesResponse: the entries, their revision and store

HEARD is when the registry was last heard, in seconds since 1970: until then it was true. MESH is `registry.address` of
the configuration: names mean something else in another mesh, and so does a file that was copied, or that two meshes in
one folder share.

Written beside and renamed, so that there is a whole one at any time; readable by its owner alone. It has names and
addresses, nothing of the resources' metadata and params. What cannot be read is left out with a warning, never fatal.
"""

from __future__ import annotations

import asyncio
import glob
import hashlib
import itertools
import logging
import math
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from gateway.snapshot import Snapshot, SnapshotView
from gateway.standing import Freshness
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.tasks import background

log = logging.getLogger(__name__)

EVERY: Final = 5.0
"""Seconds between two writes, at least."""

AGAIN: Final = 60.0
"""Seconds after which what has not changed is written again, for it is still true."""

_MAGIC: Final = b"stackmesh-snapshot 3 "
_SIZE_LIMIT: Final = 256 * 1024 * 1024


class LastGood:
    """The file at `path`, of the mesh whose registry is at `registry`."""

    def __init__(self, path: Path, registry: str, *, every: float = EVERY, again: float = AGAIN) -> None:
        self._path = path
        self._mesh = registry.encode()
        self._every = every
        self._again = again
        self._saved: Snapshot | None = None
        self._heard = -math.inf  # as the file has it
        self._said = ""  # why it cannot be kept
        self._turns = itertools.count(1)
        self._turn = 0  # the latest that was written, or failed
        self._writing = threading.Lock()

    def load(self, view: SnapshotView) -> None:
        """Put what the file has into the view, if it has something."""
        self._sweep()
        try:
            page, heard = _opened(_read(self._path), self._mesh)
        except FileNotFoundError:
            return
        except (OSError, ValueError, DecodeError) as error:
            log.warning("%s is left out: %s", self._path, error)
            return
        view.replace(page.entries, page.revision, page.store_id, saved_at=heard)
        self._saved, self._heard = view.snapshot, heard
        log.info("routing by %s, revision %d, until the registry is heard", self._path, page.revision)

    @asynccontextmanager
    async def kept(self, view: SnapshotView, registry: Freshness) -> AsyncGenerator[None]:
        """Write what the registry tells while the body runs, and once more at its end."""
        async with background(self._follow(view, registry), "keep the last good snapshot"):
            yield
        if view.snapshot is not None:
            await self._save(view.snapshot, registry, again=1.0)

    async def _follow(self, view: SnapshotView, registry: Freshness) -> None:
        seen = await view.changed(None)
        while True:
            well = await self._save(seen, registry, self._again)
            await asyncio.sleep(self._every)
            if well:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._again):
                        await view.changed(seen)
            seen = view.snapshot or seen

    async def _save(self, snapshot: Snapshot, registry: Freshness, again: float) -> bool:
        """Whether it is in the file, heard less than `again` seconds before it was heard last."""
        heard = time.time() - registry.age
        if snapshot.saved_at is not None or (heard - self._heard < again and _same(snapshot, self._saved)):
            return True
        try:
            await asyncio.to_thread(self._write, snapshot, heard, next(self._turns))
        except OSError as error:
            if str(error) != self._said:
                self._said = str(error)
                log.warning("the last good snapshot cannot be kept: %s", error)
            return False
        self._said = ""
        return True

    def _write(self, snapshot: Snapshot, heard: float, turn: int) -> None:
        with self._writing:  # one that was given up may still be at it, or come after this one
            if turn < self._turn:
                return
            self._turn = turn
            page = pb.ListEntriesResponse(revision=snapshot.revision, store_id=snapshot.store_id)
            page.entries.extend(snapshot.entries())
            self._replace(_sealed(page, heard, self._mesh))
            self._saved, self._heard = snapshot, heard

    def _replace(self, raw: bytes) -> None:
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and not self._path.is_file():
            raise OSError(f"{self._path} is no regular file")
        try:
            beside.unlink(missing_ok=True)
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
        except OSError:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def _sweep(self) -> None:
        """Remove what processes that were killed while they wrote have left beside the file."""
        for left in self._path.parent.glob(f"{glob.escape(self._path.name)}.*.tmp"):
            with suppress(OSError):
                left.unlink()

    def __repr__(self) -> str:
        return f"<LastGood {self._path} [{self._saved!r}]>"


def _same(one: Snapshot, other: Snapshot | None) -> bool:
    """Whether both route alike."""
    return other is not None and (
        (one.store_id, one.by_type, one.earlier, one.providers, one.instances)
        == (other.store_id, other.by_type, other.earlier, other.providers, other.instances)
    )


def _read(path: Path) -> bytes:
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        return file.read(_SIZE_LIMIT)


def _at_once(path: str, flags: int) -> int:
    """As `os.open`, without waiting for who writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _seal(told: bytes, body: bytes) -> bytes:
    return hashlib.sha256(told + b"\n" + body).hexdigest().encode()


def _sealed(page: pb.ListEntriesResponse, heard: float, mesh: bytes) -> bytes:
    told, body = f"{heard:.3f} ".encode() + mesh, page.SerializeToString()
    return _MAGIC + _seal(told, body) + b" " + told + b"\n" + body


def _opened(raw: bytes, mesh: bytes) -> tuple[pb.ListEntriesResponse, float]:
    """With HEARD. Raises ValueError or DecodeError for what is not a whole snapshot of this mesh."""
    head, _, body = raw.partition(b"\n")
    if not head.startswith(_MAGIC):
        raise ValueError("it is no snapshot of this version")
    seal, _, told = head[len(_MAGIC) :].partition(b" ")
    if seal != _seal(told, body):
        raise ValueError("it is damaged")
    heard, _, theirs = told.partition(b" ")
    if theirs != mesh:
        raise ValueError(f"it is of the mesh whose registry is at {theirs.decode()}; this one's is at {mesh.decode()}")
    return pb.ListEntriesResponse.FromString(body), float(heard)
