"""What every process of the mesh does the same way: read the configuration, run, stop when asked.

    python -m gateway --config mesh.yaml           run until SIGTERM or SIGINT; a second signal ends at once
    python -m services.inference --config ... --check    only say whether the configuration can be used
    python -m gateway --end-with-stdin             stop also when standard input ends, that is when its holder is gone

Exit codes: 0 stopped as asked; 78 (EX_CONFIG) the configuration or the machine has to change first, so starting
again is no use; 1 anything else, such as background work that has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import uvloop

from stackmesh.config import Config, ConfigError, load
from stackmesh.notify import Notifier
from stackmesh.tasks import failing

EX_CONFIG: Final = 78

ORPHAN_SECONDS: Final = 30.0
"""How long a process may go on after its holder is gone."""

log = logging.getLogger(__name__)


class StartError(Exception):
    """The process cannot start until somebody changes something. The message says what."""


class Process:
    """The running process, as its body sees it."""

    def __init__(self, name: str, notifier: Notifier) -> None:
        self.name = name
        self.notify = notifier
        self.stopping = asyncio.Event()
        """Set when the process has been asked to stop."""
        self.failure = ""
        """Why it stops though nobody has asked."""

    def fail(self, task: str) -> None:
        """Stop: background work without which it should not go on has failed."""
        if not self.stopping.is_set():
            self.failure = f"{task}: failed, the log says why"
            self.notify.stopping(self.failure)
            self.stopping.set()


Body = Callable[[Config, Process], Awaitable[None]]
Check = Callable[[Config], None]


def run(name: str, doc: str | None, body: Body, check: Check | None = None) -> int:
    """Parse the command line, run `body` until it returns, give the exit code. For `__main__` modules only.

    `check` raises ConfigError for what the process itself would refuse in the configuration.
    """
    args = _arguments(name, doc)
    logging.basicConfig(
        level=args.log_level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname).1s {name} %(name)s: %(message)s",
    )
    if args.end_with_stdin:
        threading.Thread(target=_end_with_stdin, name="end with stdin", daemon=True).start()
    try:
        config = load(args.config, os.environ)
        if check is not None:
            check(config)
        if args.check:
            return 0
        _raise_file_limit()
        process = Process(name, Notifier(os.environ.get("NOTIFY_SOCKET")))
        uvloop.run(_run(body, config, process))
    except (ConfigError, StartError) as error:
        sys.stderr.write(f"{name}: {error}\n")
        return EX_CONFIG
    if process.failure:
        sys.stderr.write(f"{name}: {process.failure}\n")
        return 1
    return 0


async def _run(body: Body, config: Config, process: Process) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, process)
    with failing(process.fail):
        await body(config, process)


def _stop(process: Process) -> None:
    if process.stopping.is_set():
        os._exit(1)  # asked twice: somebody is in a hurry
    process.notify.stopping("stopping")
    process.stopping.set()


def _end_with_stdin() -> None:
    """Stop as by SIGTERM when standard input ends. In a thread, so that it works while the loop is not running."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_SECONDS)
    os._exit(1)


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _arguments(name: str, doc: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=(doc or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, metavar="FILE", help="the mesh's YAML; without it the default mesh")
    parser.add_argument("--check", action="store_true", help="only check the configuration")
    parser.add_argument("--end-with-stdin", action="store_true", help="stop when standard input ends")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    return parser.parse_args()
