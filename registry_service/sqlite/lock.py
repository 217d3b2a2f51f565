"""One process has the file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from registry_service.sqlite.path import make_folder
from stackmesh.process import StartError


class Lock:
    """On a file that stays when its holder is gone, with the holder's pid and a note for the one after it."""

    def __init__(self, fd: int, path: Path) -> None:
        """Raises StartError if somebody else has it."""
        self._fd = fd
        self._path = path
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read()[0] or "unknown"
            raise StartError(
                f"the registry's store {path} is in use by another registry (pid {holder}); stop it"
            ) from None
        except OSError as error:
            raise StartError(
                f"the registry's store {path} cannot be locked: {error.strerror}; "
                "choose a folder on a disk of this machine"
            ) from None
        self.note = self._read()[1]
        """What the holder before has left."""
        self.leave(self.note)

    def leave(self, note: str) -> None:
        """The note is on the disk afterwards. Raises StartError."""
        text = f"{os.getpid()}\n{note}".encode()
        try:
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
            os.fsync(self._fd)
        except OSError as error:
            raise StartError(f"the registry's store {self._path} cannot be locked: {error.strerror}") from None

    def _read(self) -> tuple[str, str]:
        pid, _, note = os.pread(self._fd, 200, 0).decode(errors="replace").partition("\n")
        return pid, note


@contextmanager
def locked(path: Path) -> Generator[Lock]:
    """Creates the file's folder and holds `PATH.lock` while the body runs. Raises StartError."""
    try:
        make_folder(path.parent)
        fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the registry's store {path} cannot be created: {error.strerror}: {error.filename}") from None
    try:
        yield Lock(fd, path)
    finally:
        os.close(fd)  # which unlocks it
