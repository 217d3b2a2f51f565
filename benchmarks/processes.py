"""The processes a benchmark starts, and the CPU time each has used."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
_LOG_LINES: Final = 20

_CPUCLOCK_SCHED: Final = 2


class BenchmarkError(Exception):
    """Nothing could be measured. The message says why, and ends with the log of the process that failed."""


class Child:
    """A running `python -m ...`, with whatever processes it starts itself. What it writes to stderr goes to its log."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self.name = name
        self._process = process
        self._log = log

    @property
    def cpu_seconds(self) -> float:
        """What it has used so far, in user and kernel, all threads together, to the nanosecond.

        The process's own clock of clock_getcpuclockid(3). /proc/PID/stat has the same sum in steps of 10 ms.
        """
        return time.clock_gettime((~self._process.pid << 3) | _CPUCLOCK_SCHED)

    @property
    def rss_mb(self) -> float:
        """The memory it has in RAM now, in MB of 1,000,000 bytes."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    @property
    def sockets(self) -> int:
        """The sockets it has open."""
        files = Path(f"/proc/{self._process.pid}/fd").iterdir()
        return sum(str(file.readlink()).startswith("socket:") for file in files)

    async def read_line(self, seconds: float = START_SECONDS) -> str:
        """The next line of its stdout. Raises BenchmarkError when it ends, or takes longer."""
        assert self._process.stdout is not None  # noqa: S101 -- it talks
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise self.failed(f"said nothing within {seconds:.0f} s") from None
        if not line:
            raise self.failed("ended early")
        return line.decode().rstrip("\n")

    async def write_line(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 -- `running` asked for it
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    def check(self) -> None:
        """Raises BenchmarkError if it has ended."""
        if self._process.returncode is not None:
            raise self.failed(f"ended with exit code {self._process.returncode}")

    def failed(self, how: str) -> BenchmarkError:
        """The error that tells what became of this process."""
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return BenchmarkError("\n".join([f"{self.name} {how}; the end of its log:", *lines]))

    async def stop(self) -> None:
        """Ask it to end, both ways: no more input, and SIGTERM. One that does not is killed."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None  # noqa: S101 -- `running` asked for it
        self._process.stdin.close()
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def running(
    name: str,
    *arguments: str,
    folder: Path,
    talks: bool = False,
    cpus: Collection[int] = (),
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] | None = None,
) -> AsyncGenerator[Child]:
    """`python -m ARGUMENTS` while the body runs, on `cpus` alone if given; its log is `folder/NAME.log`.

    One that `talks` says on stdout what it is asked; with the others, stdout goes to the log too. A `python` of another
    project gets an `environment` of its own.
    """
    log = folder / f"{name}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(python, "-m", *arguments),
            stdin=PIPE,
            stdout=PIPE if talks else output,
            stderr=output,
            env=_environment() if environment is None else environment,
            start_new_session=True,  # so that one that hangs can be killed with all it started
        )
    child = Child(name, process, log)
    try:
        if cpus:
            os.sched_setaffinity(process.pid, cpus)  # before it has other threads, which inherit it
        yield child
    finally:
        await asyncio.shield(child.stop())


def _environment() -> Mapping[str, str]:
    # The benchmarks are part of the source tree, not of the installed distribution.
    root = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
