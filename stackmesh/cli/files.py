"""Writing what a command was told to write, where it was told to."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Final

_PRIVATE: Final = 0o600
"""The mode of a new file: what is in a backup concerns its owner."""


def put(path: Path, text: str) -> None:
    """Make it what is at `path`: a file is there whole, or as it was, and keeps its mode; a symlink stays one.

    What is no regular file, a pipe or a device, is written to. Raises OSError that names `path`.
    """
    try:
        mode = _mode(path)
        if stat.S_ISREG(mode):
            _replace(path.resolve(), stat.S_IMODE(mode), text)
        else:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _mode(path: Path) -> int:
    """What is there, behind symlinks; a new file if nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG | _PRIVATE


def _replace(path: Path, mode: int, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=".stackmesh-", dir=path.parent)  # nobody else may read it
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
