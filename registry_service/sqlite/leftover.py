"""What a registry that was killed has left beside its file: the log of what it wrote last.

SQLite takes it for that of whatever file stands there, and writes it into it. So whoever opens a file notes which file
and which log belong together.
"""

from __future__ import annotations

from pathlib import Path

from stackmesh.process import StartError


def note(path: Path) -> str:
    """Of the open file."""
    return f"{_number(path)} {_number(_log(path))}"


def check(path: Path, noted: str) -> None:
    """Raises StartError if the log that is there is that of another file. What was copied with its log is as it was."""
    log = _log(path)
    of, _, which = noted.partition(" ")
    if log.exists() and log.stat().st_size and which == _number(log) and of != _number(path):
        raise StartError(
            f"{path} has been replaced, and {log} belongs to the file before it: "
            f"remove {log} and {path}-shm to start with the file that is there now"
        )


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _number(path: Path) -> str:
    """Of the file, on its disk; the disk's own may be another one after each start of the machine."""
    return str(path.stat().st_ino) if path.exists() else ""
