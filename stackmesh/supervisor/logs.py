"""The log file of one service: what its processes write to stdout and stderr."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

_TAIL_BYTES: Final = 8192
_TAIL_LINES: Final = 10


class ServiceLog:
    """`NAME.log`; the one of the mesh's last run is kept as `NAME.log.1`."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.log"
        if self.path.exists():
            self.path.replace(folder / f"{name}.log.1")
        self._begun = 0

    def begin(self) -> BinaryIO:
        """Where the next process writes to. The caller closes it."""
        file = self.path.open("ab")
        self._begun = file.tell()
        return file

    def last_words(self) -> list[str]:
        """The last lines of the latest process."""
        with self.path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(self._begun, end - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return [line for line in lines if line.strip()][-_TAIL_LINES:]

    def complaint(self, prefix: str) -> str:
        """What the latest process said when it gave up: the lines from the last one that begins with `prefix: `."""
        lines = self.last_words()
        begins = [index for index, line in enumerate(lines) if line.startswith(f"{prefix}: ")]
        said = lines[begins[-1] :] if begins else lines
        return "\n".join(said).removeprefix(f"{prefix}: ") or f"no reason was given; see {self.path}"
