"""Where the database file is, and the folder it is in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stackmesh.process import StartError

SCHEME: Final = "sqlite:///"


def path_of(url: str) -> Path:
    """`sqlite:///relative/path` or `sqlite:////absolute/path` as a path. The StartError never shows what was written:
    there may be a password in it.
    """
    if not url.startswith(SCHEME):
        raise _wrong("is not the address of a store", also=" or etcd://HOST:PORT/PREFIX")
    written = url.removeprefix(SCHEME)
    if written.startswith(":"):
        raise _wrong("a store that is not in a file would forget everything when it is closed")
    if "?" in written:
        raise _wrong("there are no options (?...) of a file")
    if not (path := Path(written)).name:
        raise _wrong("names no file")
    return path


def _wrong(what: str, also: str = "") -> StartError:
    return StartError(f"registry.store: {what}; write {SCHEME}PATH{also}")


def real(path: Path) -> Path:
    """The file behind all links: under one name, so that it is locked, and its files found, under that name alone."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise StartError(f"the registry's store {path} cannot be found: {error}") from None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path, mode: int = 0o700, sync: Callable[[Path], None] = _sync) -> None:
    """And those above it, each written to the disk with its name: SQLite sees to the names of its files alone."""
    if not folder.is_dir():
        make_folder(folder.parent, 0o777, sync)
        folder.mkdir(mode, exist_ok=True)
        sync(folder.parent)
