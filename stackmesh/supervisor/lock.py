"""One mesh in a folder at a time: a second one would move the logs of the first away, and then fail at its ports."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class InUse(Exception):
    """Somebody else has the folder. The message says who."""


@contextmanager
def held(path: Path) -> Generator[None]:
    """The file at `path` is ours while the body runs. It stays; the system unlocks it, however we end.

    Raises InUse, and OSError where it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
        raise InUse(
            f"another `stackmesh up` (pid {holder}) runs in this folder and holds {path}; "
            "stop it, or start this one in a folder of its own"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
