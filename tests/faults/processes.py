"""Processes of the mesh that can be killed, frozen, woken and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import yaml

from stackmesh.supervisor.notices import Inbox, inbox
from tests.waiting import until

ROOT: Final = Path(__file__).parents[2]
_READY_SECONDS: Final = 40.0
_END_SECONDS: Final = 30.0
_THAW: Final = 'cat > /dev/null; kill -CONT "$0" 2> /dev/null'
"""Wakes a process when whoever froze it is gone, so that it can notice that its own standard input has ended."""


class Member:
    """`python -m module --config FILE`. Start it with `async with` or `start`; leaving the block kills what is left.

    `program` replaces `-m module`, for who plants a bug.
    """

    def __init__(self, module: str, config: Path, name: str) -> None:
        self.name = name
        self.config = config
        self.log = config.with_name(f"{name}.log")
        self.program: Sequence[str] = ("-m", module)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and return as soon as it says that it is ready. For an end before that, see `run`."""
        assert self._process is None, f"{self.name} runs already"
        with inbox(self.config.parent) as notices:
            await self._spawn(notices)
            ready = asyncio.Event()
            notices.listen(lambda notice: ready.set() if notice.get("READY") else None)
            await until(lambda: ready.is_set() or not self.running, _READY_SECONDS)
        assert ready.is_set(), f"{self.name} has ended: {self._last_word()}"

    async def run(self) -> tuple[int, str]:
        """Start, and wait for it to end by itself: its exit code, and the last thing it said."""
        with inbox(self.config.parent) as notices:
            await self._spawn(notices)
            code = await self._gone()
        return code, self._last_word()

    async def _spawn(self, notices: Inbox) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                (sys.executable, *self.program, "--config", str(self.config), "--end-with-stdin"),
                cwd=ROOT,
                env={**os.environ, "NOTIFY_SOCKET": str(notices.path)},
                stdin=subprocess.PIPE,  # it ends with this process, however this process ends
                stdout=log,
                stderr=log,
            )

    def reconfigure(self, section: str, **changed: object) -> None:
        """From the next start on."""
        tree = yaml.safe_load(self.config.read_text())
        tree[section] = {**tree.get(section, {}), **changed}
        self.config.write_text(yaml.safe_dump(tree))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        self._guard = subprocess.Popen(("sh", "-c", _THAW, str(self.pid)), stdin=subprocess.PIPE)
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)
        self._dismiss_guard()

    async def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self._send(signal.SIGKILL)
        await self._gone()

    async def stop(self) -> int:
        """SIGTERM: its exit code."""
        self._send(signal.SIGTERM)
        return await self._gone()

    def _last_word(self) -> str:
        return self.log.read_text().splitlines()[-1]

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _gone(self) -> int:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        await until(lambda: process.poll() is not None, _END_SECONDS)
        process.stdin.close()
        self._process = None
        self._dismiss_guard()
        return process.returncode

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.communicate()
            self._guard = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._process is not None:
            await self.kill()

    def __repr__(self) -> str:
        return f"<Member {self.name} [{'running' if self.running else 'not running'}]>"
