"""One service, kept running: started, watched, started again when it dies, stopped when asked."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from stackmesh.backoff import Backoff
from stackmesh.process import EX_CONFIG
from stackmesh.supervisor.commands import Command
from stackmesh.supervisor.logs import ServiceLog
from stackmesh.supervisor.notices import inbox
from stackmesh.supervisor.status import Observer, State, Status

HEALTHY_SECONDS: Final = 30.0
"""After so long without dying a service is started again as quickly as the first time."""


class Service:
    """`run` ends when `stop` was called, or when the service says that starting again is no use."""

    def __init__(
        self, command: Command, sockets: Path, log: ServiceLog, environment: Mapping[str, str], observer: Observer
    ) -> None:
        self._command = command
        self._sockets = sockets
        self._log = log
        self._environment = environment
        self._observer = observer
        self._backoff = Backoff(first=0.2)
        self._process: asyncio.subprocess.Process | None = None
        self._was_ready = False
        self._asked = asyncio.Event()
        self._ended = asyncio.Event()
        self.status = Status(command.name, State.STARTING)

    async def run(self) -> None:
        try:
            while not self._asked.is_set():
                try:
                    await self._conclude(await self._run_once())
                except OSError as error:
                    await self._pause(f"cannot be started: {error.filename or ''} {error.strerror}")
        finally:
            self._ended.set()

    async def _conclude(self, code: int) -> None:
        if self._asked.is_set():
            self._become(State.STOPPED, text="", pid=None, ready_since=None)
        elif code == EX_CONFIG and not self._was_ready:
            self._asked.set()
            self._become(State.FAILED, text=self._log.complaint(self._module), pid=None)
        else:
            last = self._log.last_words()[-1:] if code > 0 else []  # who was killed has not said why
            await self._pause(": ".join([_cause(code), *last]))

    async def stop(self, grace: float) -> None:
        """SIGTERM, and after `grace` seconds SIGKILL. Returns when the process is gone."""
        self._asked.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def kill(self) -> None:
        """SIGKILL, now."""
        self._asked.set()
        self._signal(signal.SIGKILL)

    async def _run_once(self) -> int:
        self._become(State.STARTING, text="", pid=None, ready_since=None)
        with inbox(self._sockets) as notices, self._log.begin() as output:
            process = await asyncio.create_subprocess_exec(
                *self._command.argv,
                stdin=asyncio.subprocess.PIPE,  # held for as long as this process lives: see --end-with-stdin
                stdout=output,
                stderr=output,
                env={**self._environment, "NOTIFY_SOCKET": str(notices.path)},
                start_new_session=True,  # Ctrl-C at the terminal is for the supervisor alone
            )
            self._process = process
            self._become(self.status.state, pid=process.pid)
            notices.listen(self._hear)
            if self._asked.is_set():
                self._signal(signal.SIGTERM)
            try:
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                self._process = None

    def _hear(self, notice: Mapping[str, str]) -> None:
        state, since = self.status.state, self.status.ready_since
        if notice.get("READY") == "1" and not self._asked.is_set():
            state, since, self._was_ready = State.READY, time.monotonic(), True
        if notice.get("STOPPING") == "1":
            state = State.STOPPING
        self._become(state, text=notice.get("STATUS", self.status.text), ready_since=since)

    async def _pause(self, cause: str) -> None:
        since = self.status.ready_since
        if since is not None and time.monotonic() - since >= HEALTHY_SECONDS:
            self._backoff.reset()
        delay = self._backoff.delay()
        text = f"{cause}; again in {delay:.1f} s; {self._log.path} has more"
        restarts = self.status.restarts + 1
        self._become(State.RESTARTING, text=text, pid=None, ready_since=None, restarts=restarts)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._asked.wait()
        if self._asked.is_set():
            self._become(State.STOPPED, text="")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            if self.status.state is not State.STOPPING:
                self._become(State.STOPPING, text="")
            self._process.send_signal(number)

    @property
    def _module(self) -> str:
        """What the process calls itself when it complains."""
        argv = self._command.argv
        return argv[argv.index("-m") + 1] if "-m" in argv else self._command.name

    def _become(self, state: State, **changes: object) -> None:
        status = replace(self.status, state=state, **changes)
        if status != self.status:
            self.status = status
            self._observer(status)

    def __repr__(self) -> str:
        return f"<Service {self._command.name} [{self.status.state}, pid {self.status.pid}]>"


def _cause(code: int) -> str:
    return f"ended with code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
