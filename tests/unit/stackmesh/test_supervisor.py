"""The supervisor over small real programs that speak sd_notify."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stackmesh.config import parse
from stackmesh.supervisor import (
    Command,
    StartFailed,
    State,
    Status,
    Supervisor,
    SupervisorFailed,
    commands,
    supervised,
    unhosted,
)
from tests.waiting import until

PROGRAM = """
    import os, pathlib, signal, socket, sys, time

    name, mode = sys.argv[1:3]

    def say(text):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

    def end(*_):
        with open("ended", "a") as file:
            file.write(name + " ")
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else end)
    print(f"{name} begins")
    say("STATUS=waking up")
    flag = pathlib.Path(name + ".refused")
    if mode == "refuse" or (mode == "refuse-later" and flag.exists()):
        sys.stderr.write(f"a line of the log\\n{name}: the port is held by python (pid 4711)\\nstop it first\\n")
        sys.exit(78)
    flag.touch()
    if mode == "die":
        sys.stderr.write("out of paper\\n")
        sys.exit(3)
    if mode != "slow":
        say(f"READY=1\\nSTATUS={name} at home")
    while True:
        time.sleep(60)
"""


@dataclass
class Bench:
    """A folder in which programs run, and what their supervisor said of them."""

    folder: Path
    history: list[Status] = field(default_factory=list)

    @asynccontextmanager
    async def running(self, *services: tuple[str, str]):
        program = self.folder / "program.py"
        program.write_text(textwrap.dedent(PROGRAM))
        wanted = [Command(name, (sys.executable, "-u", str(program), name, mode)) for name, mode in services]
        async with supervised(wanted, self.logs, os.environ, self.history.append) as supervisor:
            yield supervisor

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def states(self, name: str) -> list[State]:
        seen = [status.state for status in self.history if status.name == name]
        return [state for index, state in enumerate(seen) if not index or seen[index - 1] is not state]


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_all_become_ready_and_are_stopped_in_reverse(bench: Bench) -> None:
    async with bench.running(("registry", "ok"), ("inference", "ok"), ("gateway", "ok")) as supervisor:
        assert await supervisor.ready()
        assert supervisor.statuses["gateway"].text == "gateway at home"
        pids = [status.pid for status in supervisor.statuses.values()]
        assert all(alive(pid) for pid in pids)
    assert (bench.folder / "ended").read_text().split() == ["gateway", "inference", "registry"]
    assert not any(alive(pid) for pid in pids)
    assert bench.states("gateway") == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


async def test_one_that_is_not_ready_keeps_the_mesh_waiting(bench: Bench) -> None:
    async with bench.running(("registry", "ok"), ("inference", "slow")) as supervisor:
        await until(lambda: supervisor.statuses["inference"].text == "waking up")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await supervisor.ready()
        supervisor.ask_to_stop()
        assert not await supervisor.ready()


async def test_one_that_asks_for_a_change_ends_the_mesh_with_its_own_words(bench: Bench) -> None:
    with pytest.raises(StartFailed) as caught:
        async with bench.running(("registry", "ok"), ("gateway", "refuse")) as supervisor:
            await supervisor.ready()
    assert str(caught.value) == "gateway: the port is held by python (pid 4711)\nstop it first"
    assert bench.states("gateway") == [State.STARTING, State.FAILED]
    assert bench.states("registry")[-1] is State.STOPPED


async def test_one_that_dies_is_started_again_and_the_others_stay(bench: Bench) -> None:
    async with bench.running(("registry", "ok"), ("inference", "ok")) as supervisor:
        await supervisor.ready()
        first, neighbour = (supervisor.statuses[name].pid for name in ("inference", "registry"))
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.statuses["inference"].restarts == 1)
        await until(lambda: supervisor.statuses["inference"].state is State.READY)
        assert supervisor.statuses["inference"].pid != first
        assert supervisor.statuses["registry"].pid == neighbour
    restarting = next(status for status in bench.history if status.state is State.RESTARTING)
    assert restarting.text.startswith("killed by SIGKILL; again in 0.")


class Shaky(list[Status]):
    """An observer with a bug."""

    def append(self, status: Status) -> None:
        super().append(status)
        if status.state is State.RESTARTING:
            raise RuntimeError("a bug")


async def test_a_service_that_cannot_be_watched_any_more_ends_the_mesh(bench: Bench) -> None:
    bench.history = Shaky()
    async with asyncio.timeout(20), bench.running(("registry", "ok"), ("inference", "ok")) as supervisor:
        await supervisor.ready()
        os.kill(supervisor.statuses["inference"].pid, signal.SIGKILL)
        with pytest.raises(SupervisorFailed, match="keep inference running"):
            await supervisor.asked_to_stop()
    assert bench.states("registry")[-1] is State.STOPPED


async def test_a_service_that_was_ready_once_is_tried_again_even_if_it_refuses_now(bench: Bench) -> None:
    async with bench.running(("gateway", "refuse-later")) as supervisor:
        await supervisor.ready()
        os.kill(supervisor.statuses["gateway"].pid, signal.SIGKILL)
        await until(lambda: supervisor.statuses["gateway"].restarts == 2)
        (bench.folder / "gateway.refused").unlink()
        await until(lambda: supervisor.statuses["gateway"].state is State.READY)


async def test_the_pauses_grow(bench: Bench) -> None:
    async with bench.running(("inference", "die")) as supervisor:
        began = time.monotonic()
        await until(lambda: supervisor.statuses["inference"].restarts == 4)
        assert time.monotonic() - began >= 0.5 * (0.2 + 0.4 + 0.8)
        assert "ended with code 3: out of paper; again in" in supervisor.statuses["inference"].text


async def test_one_that_cannot_be_started_is_tried_again_and_can_be_stopped(bench: Bench) -> None:
    async with supervised(
        [Command("gateway", ("/no/such/program",))], bench.logs, os.environ, bench.history.append
    ) as supervisor:
        await until(lambda: supervisor.statuses["gateway"].restarts == 2)
        assert "cannot be started: /no/such/program No such file" in supervisor.statuses["gateway"].text
    assert bench.states("gateway")[-1] is State.STOPPED


async def test_asking_ends_the_wait(bench: Bench) -> None:
    async with bench.running(("registry", "ok")) as supervisor:
        await supervisor.ready()
        asyncio.get_running_loop().call_later(0.05, supervisor.ask_to_stop)
        async with asyncio.timeout(5):
            await supervisor.asked_to_stop()


async def test_a_second_request_kills_what_does_not_want_to_stop(bench: Bench) -> None:
    async with asyncio.timeout(20):
        async with bench.running(("registry", "stubborn")) as supervisor:
            await supervisor.ready()
            asyncio.get_running_loop().call_later(0.5, supervisor.kill)
    assert bench.states("registry")[-1] is State.STOPPED


async def test_stopping_is_bounded(bench: Bench) -> None:
    async with bench.running(("registry", "stubborn")) as supervisor:
        await supervisor.ready()
        (service,) = supervisor._services
        await service.stop(grace=0.3)
        assert not alive(next(status.pid for status in bench.history if status.pid))


async def test_what_they_write_is_kept_and_that_of_the_last_run_too(bench: Bench) -> None:
    for run in range(2):
        async with bench.running((f"registry{run}", "ok"), ("gateway", "ok")) as supervisor:
            await supervisor.ready()
    assert (bench.logs / "gateway.log").read_text() == "gateway begins\n"
    assert (bench.logs / "gateway.log.1").read_text() == "gateway begins\n"
    assert not (bench.logs / "registry1.log.1").exists()


async def test_a_run_hears_only_its_own_socket(bench: Bench) -> None:
    """Each run of a process has a new socket, and none is left behind."""
    async with bench.running(("registry", "ok")) as supervisor:
        await supervisor.ready()
        first = _notify_socket(supervisor)
        os.kill(supervisor.statuses["registry"].pid, signal.SIGKILL)
        await until(lambda: supervisor.statuses["registry"].restarts == 1)
        await until(lambda: supervisor.statuses["registry"].state is State.READY)
        second = _notify_socket(supervisor)
        assert first != second
        assert not first.exists()
        assert second.parent.stat().st_mode & 0o077 == 0
    assert not second.parent.exists()


def _notify_socket(supervisor: Supervisor) -> Path:
    environment = Path(f"/proc/{supervisor.statuses['registry'].pid}/environ").read_bytes().split(b"\0")
    return Path(next(v for v in environment if v.startswith(b"NOTIFY_SOCKET=")).decode().partition("=")[2])


SERVICE = """
    import sys
    from stackmesh.process import run
    async def body(config, process):
        process.notify.ready("here")
        await process.stopping.wait()
    sys.exit(run("program", "Waits.", body))
"""

OWNER = """
    import asyncio, os, pathlib, sys
    from stackmesh.supervisor import Command, supervised
    async def main():
        command = Command("service", (sys.executable, *sys.argv[1:]))
        async with supervised([command], pathlib.Path("logs"), os.environ, lambda status: None) as supervisor:
            await supervisor.ready()
            print(supervisor.statuses["service"].pid, flush=True)
            await supervisor.asked_to_stop()
    asyncio.run(main())
"""


def _orphan(folder: Path, *arguments: str) -> int:
    """Start a supervisor with one service, kill it with SIGKILL, return the service's pid."""
    for name, source in (("service.py", SERVICE), ("owner.py", OWNER)):
        (folder / name).write_text(textwrap.dedent(source))
    command = [sys.executable, "owner.py", str(folder / "service.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, env=environment, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert alive(pid)
        owner.kill()
    return pid


async def test_services_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    pid = _orphan(tmp_path, "--end-with-stdin")
    await until(lambda: not alive(pid))


async def test_they_would_not_without_their_input(tmp_path: Path) -> None:
    """The control of the test above: it is the end of input that ends them."""
    pid = _orphan(tmp_path)
    try:
        with pytest.raises(TimeoutError):
            await until(lambda: not alive(pid), seconds=1)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("yaml", "names"),
    [
        ("version: 1", ["registry", "gateway"]),
        (
            "{version: 1, providers: {inference: [{provider_id: e, provider_type: 'inline::echo'}]}}",
            ["registry", "inference", "gateway"],
        ),
        (
            "{version: 1, providers: {safety: [{provider_id: g, provider_type: 'inline::llama-guard'}]}}",
            ["registry", "gateway"],
        ),
    ],
)
def test_only_what_has_providers_is_started(yaml: str, names: list[str]) -> None:
    wanted = commands(parse(yaml, {}, "test"), Path("mesh.yaml"))
    assert [command.name for command in wanted] == names
    assert wanted[-1].argv[1:] == ("-P", "-m", "gateway", "--config", "mesh.yaml", "--end-with-stdin")


def test_providers_that_nothing_can_host_are_named() -> None:
    yaml = "{version: 1, providers: {inference: [{provider_id: e, provider_type: 'inline::echo'}], safety: [%s]}}"
    assert not unhosted(parse(yaml % "", {}, "test"))
    [remark] = unhosted(parse(yaml % "{provider_id: g, provider_type: 'inline::llama-guard'}", {}, "test"))
    assert remark.startswith("providers.safety: nothing in this version hosts safety providers yet; ")
