"""Child processes of a test: started, ready, and surely ended."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import grpc

from tests.contracts.data_plane.conformance import ROOT

_START_SECONDS: Final = 20
_STOP_SECONDS: Final = 3
_EAGER: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 50),
)


@asynccontextmanager
async def started(module: str, *args: object, log: Path, address: str) -> AsyncGenerator[Process]:
    """`python -m module args`, answering at `address`. Its stderr goes to `log`."""
    async with _process(module, *args, log=log) as process:
        await _listening(process, address, module, log)
        yield process


@asynccontextmanager
async def announcing(module: str, *args: object, log: Path) -> AsyncGenerator[tuple[Process, str]]:
    """As `started`, for a process that prints `READY address` itself."""
    async with _process(module, *args, log=log) as process:
        assert process.stdout is not None
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        assert line.startswith(b"READY "), f"{module} did not start: see {log}"
        yield process, line.split()[1].decode()


@asynccontextmanager
async def _process(module: str, *args: object, log: Path) -> AsyncGenerator[Process]:
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *map(str, args), cwd=ROOT, stdout=PIPE, stderr=stderr
        )
    try:
        yield process
    finally:
        await end(process)


async def end(process: Process) -> None:
    """Ask, then insist."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def _listening(process: Process, address: str, module: str, log: Path) -> None:
    async with grpc.aio.insecure_channel(address, options=_EAGER) as channel:
        ready = asyncio.create_task(channel.channel_ready())
        died = asyncio.create_task(process.wait())
        done, pending = await asyncio.wait((ready, died), timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
            await asyncio.wait([task])
        assert ready in done, f"{module} does not answer at {address}: see {log}"


def memory(pid: int) -> int:
    """Resident bytes."""
    fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmRSS"))
