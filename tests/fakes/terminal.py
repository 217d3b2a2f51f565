"""A command at a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from pathlib import Path

from tests.fakes.up import environment


class Terminal:
    """What is typed and what is shown. Left, it ends with SIGKILL if it has not ended."""

    def __init__(self, *command: str, cwd: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=environment(TERM="xterm"),
            preexec_fn=_own_terminal,  # noqa: PLW1509 -- this process has no other thread that matters here
        )
        os.close(slave)
        self._seen = ""

    def type(self, text: str) -> None:
        self._seen = ""
        os.write(self._master, text.encode())

    def wait_for(self, text: str, seconds: float = 20) -> str:
        limit = time.monotonic() + seconds
        while text not in self._seen:
            left = limit - time.monotonic()
            assert left > 0, f"{text!r} was not shown: {self._seen!r}"
            if select.select([self._master], [], [], left)[0]:
                self._seen += os.read(self._master, 65536).decode(errors="replace")
        return self._seen

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)


def _own_terminal() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
