"""One process has the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from registry_service.sqlite.path import make_folder
from stackmesh.process import StartError


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Creates the file's folder and holds `PATH.lock` while the body runs. Raises StartError."""
    lock = path.with_name(path.name + ".lock")
    try:
        make_folder(path.parent)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the registry's store {path} cannot be created: {error.strerror}: {error.filename}") from None
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)  # which unlocks it


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
        raise StartError(f"the registry's store {path} is in use by another registry (pid {holder}); stop it") from None
    except OSError as error:
        raise StartError(
            f"the registry's store {path} cannot be locked: {error.strerror}; choose a folder on a disk of this machine"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
