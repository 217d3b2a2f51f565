"""stackmesh up: the whole mesh on this machine."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from stackmesh.cli.failures import told
from stackmesh.cli.welcome import welcome
from stackmesh.config import Config, load
from stackmesh.supervisor import Supervisor, commands, same_code, supervised, unhosted
from stackmesh.supervisor.lock import held
from stackmesh.supervisor.view import View, view
from stackmesh.tasks import background

LOGS: Final = Path(".stackmesh/logs")
LOCK: Final = Path(".stackmesh/up.lock")


def run(path: Path | None, environment: Mapping[str, str]) -> None:
    """Until Ctrl-C, SIGTERM, or its terminal is closed."""
    with told():
        config = load(path, environment)
        with held(LOCK), view(Console()) as seen:
            for remark in unhosted(config):
                seen.note(remark)
            asyncio.run(_up(config, path, environment, seen))


async def _up(config: Config, path: Path | None, environment: Mapping[str, str], seen: View) -> None:
    async with supervised(commands(config, path), LOGS, same_code(environment), seen.show) as supervisor:
        _obey_signals(supervisor, seen)
        if await supervisor.ready():
            async with background(welcome(config, seen.note), "welcome", vital=False):
                await supervisor.asked_to_stop()


def _obey_signals(supervisor: Supervisor, seen: View) -> None:
    loop = asyncio.get_running_loop()

    def obey() -> None:
        if supervisor.asked:
            supervisor.kill()
        else:
            seen.note("stopping; once more to stop at once")
            supervisor.ask_to_stop()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, obey)
