"""The last good snapshot in a file, for a gateway that starts while there is no registry.

    stackmesh-snapshot 2 SHA-256 MESH, and the end of the line
    ListEntriesResponse: the entries, their revision and store

MESH is `registry.address` of the configuration: names mean something else in another mesh, and so does a file that was
copied, or that two meshes in one folder share.

Written beside and renamed, so that there is a whole one at any time; readable by its owner alone. It has names and
addresses, nothing of the resources' metadata and params. What cannot be read is left out with a warning, never fatal.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from gateway.snapshot import Snapshot, SnapshotView
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.tasks import background

log = logging.getLogger(__name__)

EVERY: Final = 5.0
"""Seconds between two writes, at least."""

_MAGIC: Final = b"stackmesh-snapshot 2 "
_SIZE_LIMIT: Final = 256 * 1024 * 1024


class LastGood:
    """The file at `path`, of the mesh whose registry is at `registry`."""

    def __init__(self, path: Path, registry: str, *, every: float = EVERY) -> None:
        self._path = path
        self._mesh = registry.encode()
        self._every = every
        self._saved: Snapshot | None = None
        self._writing = threading.Lock()

    def load(self, view: SnapshotView) -> None:
        """Put what the file has into the view, if it has something."""
        try:
            raw, saved_at = _read(self._path)
            page = _opened(raw, self._mesh)
        except FileNotFoundError:
            return
        except (OSError, ValueError, DecodeError) as error:
            log.warning("%s is left out: %s", self._path, error)
            return
        view.replace(page.entries, page.revision, page.store_id, saved_at=saved_at)
        self._saved = view.snapshot
        log.info("routing by %s, revision %d, until the registry is heard", self._path, page.revision)

    @asynccontextmanager
    async def kept(self, view: SnapshotView) -> AsyncGenerator[None]:
        """Write what the registry tells while the body runs, and once more at its end."""
        async with background(self._follow(view), "keep the last good snapshot"):
            yield
        if view.snapshot is not None:
            await self._save(view.snapshot)

    async def _follow(self, view: SnapshotView) -> None:
        seen: Snapshot | None = None
        while True:
            seen = await view.changed(seen)
            await self._save(seen)
            await asyncio.sleep(self._every)

    async def _save(self, snapshot: Snapshot) -> None:
        if snapshot.saved_at is not None or _same(snapshot, self._saved):
            return
        try:
            await asyncio.to_thread(self._write, snapshot)
        except OSError as error:
            log.warning("the last good snapshot cannot be kept: %s", error)

    def _write(self, snapshot: Snapshot) -> None:
        page = pb.ListEntriesResponse(revision=snapshot.revision, store_id=snapshot.store_id)
        page.entries.extend(snapshot.entries())
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with self._writing:  # one that was given up may still be at it
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and not self._path.is_file():
                raise OSError(f"{self._path} is no regular file")
            try:
                beside.unlink(missing_ok=True)
                with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    file.write(_sealed(page, self._mesh))
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(self._path)
            except OSError:
                with suppress(OSError):
                    beside.unlink(missing_ok=True)
                raise
            self._saved = snapshot

    def __repr__(self) -> str:
        return f"<LastGood {self._path} [{self._saved!r}]>"


def _same(one: Snapshot, other: Snapshot | None) -> bool:
    """Whether both route alike."""
    return other is not None and (
        (one.store_id, one.by_type, one.earlier, one.providers, one.instances)
        == (other.store_id, other.by_type, other.earlier, other.providers, other.instances)
    )


def _read(path: Path) -> tuple[bytes, float]:
    """What the file has, and when it was written."""
    with open(path, "rb", opener=_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        return file.read(_SIZE_LIMIT), status.st_mtime


def _at_once(path: str, flags: int) -> int:
    """As `os.open`, without waiting for who writes to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _seal(mesh: bytes, body: bytes) -> bytes:
    return hashlib.sha256(mesh + b"\n" + body).hexdigest().encode()


def _sealed(page: pb.ListEntriesResponse, mesh: bytes) -> bytes:
    body = page.SerializeToString()
    return _MAGIC + _seal(mesh, body) + b" " + mesh + b"\n" + body


def _opened(raw: bytes, mesh: bytes) -> pb.ListEntriesResponse:
    """Raises ValueError or DecodeError for what is not a whole snapshot of this mesh."""
    head, _, body = raw.partition(b"\n")
    if not head.startswith(_MAGIC):
        raise ValueError("it is no snapshot of this version")
    seal, _, theirs = head[len(_MAGIC) :].partition(b" ")
    if seal != _seal(theirs, body):
        raise ValueError("it is damaged")
    if theirs != mesh:
        raise ValueError(f"it is of the mesh whose registry is at {theirs.decode()}; this one's is at {mesh.decode()}")
    return pb.ListEntriesResponse.FromString(body)
