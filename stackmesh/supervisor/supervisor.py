"""The services of one mesh, together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from stackmesh.supervisor.commands import Command
from stackmesh.supervisor.logs import ServiceLog
from stackmesh.supervisor.service import Service
from stackmesh.supervisor.status import Observer, StartFailed, State, Status, SupervisorFailed
from stackmesh.tasks import background, failing

DRAIN_SECONDS: Final = 30.0
"""How long the services together may take to finish what is in flight."""


class Supervisor:
    """Watches what its services say. `ask_to_stop` and `kill` may be called from signal handlers of the loop."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._services: list[Service] = []
        self._statuses: dict[str, Status] = {}
        self._asked = False
        self._failed = ""
        self._moved = asyncio.Event()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """Every service by name, as it is now."""
        return self._statuses

    @property
    def asked(self) -> bool:
        """Whether somebody has asked it to stop."""
        return self._asked

    def add(self, service: Service) -> None:
        """Services are added in the order of need, and stopped in the reverse of it."""
        self._services.append(service)
        self._statuses[service.status.name] = service.status

    def observe(self, status: Status) -> None:
        """Hears of every change of a service."""
        self._statuses[status.name] = status
        self._observer(status)
        self._moved.set()

    async def ready(self) -> bool:
        """Wait until all services are ready at once. False: asked to stop before.

        Raises StartFailed, SupervisorFailed.
        """
        await self._until(lambda: all(status.state is State.READY for status in self._statuses.values()))
        return not self._asked

    async def asked_to_stop(self) -> None:
        """Wait until somebody asks. Raises StartFailed, SupervisorFailed."""
        await self._until(lambda: False)

    def ask_to_stop(self) -> None:
        """Ends `ready` and `asked_to_stop`."""
        self._asked = True
        self._moved.set()

    def fail(self, task: str) -> None:
        """Ends them too: a service is not watched any more."""
        self._failed = task
        self._moved.set()

    def kill(self) -> None:
        """End every process now."""
        for service in self._services:
            service.kill()

    async def drain(self) -> None:
        """Stop one service after the other, what is in front first, so that calls in flight can finish."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DRAIN_SECONDS
        for service in reversed(self._services):
            await service.stop(max(0.0, deadline - loop.time()))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not (self._asked or condition()):
            for status in self._statuses.values():
                if status.state is State.FAILED:
                    raise StartFailed(status)
            if self._failed:
                raise SupervisorFailed(self._failed)
            self._moved.clear()
            await self._moved.wait()

    def __repr__(self) -> str:
        return f"<Supervisor {', '.join(f'{name} {status.state}' for name, status in self._statuses.items())}>"


@asynccontextmanager
async def supervised(
    commands: Sequence[Command], logs: Path, environment: Mapping[str, str], observer: Observer
) -> AsyncGenerator[Supervisor]:
    """The processes of `commands`, all started at once, running while the body runs, then drained in reverse order.

    What they write goes to `logs`. Raises OSError where that folder cannot be written.
    """
    supervisor = Supervisor(observer)
    async with AsyncExitStack() as stack:
        stack.enter_context(failing(supervisor.fail))
        sockets = Path(stack.enter_context(TemporaryDirectory(prefix="stackmesh-")))
        for command in commands:
            log = ServiceLog(logs, command.name)
            service = Service(command, sockets, log, environment, supervisor.observe)
            supervisor.add(service)
            await stack.enter_async_context(background(service.run(), f"keep {command.name} running"))
        try:
            yield supervisor
        finally:
            await supervisor.drain()
