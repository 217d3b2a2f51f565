"""`stackmesh up` as a real process in a folder and on ports of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
STACKMESH = (sys.executable, "-m", "stackmesh")


def environment(**more: str) -> Mapping[str, str]:
    """One in which a terminal is no terminal, wherever the tests run."""
    kept = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "NO_COLOR", "STACKMESH_ADDRESS"}}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **more}


@dataclass
class Up:
    """The process, and the lines it has written so far."""

    folder: Path
    gateway: str
    registry: str
    config: Path
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """The first line that contains `text`."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            for line in self.lines:
                if text in line:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not said within {seconds} s:\n{self.text}")

    def pids(self, name: str) -> list[int]:
        """The processes of this mesh that run a module, oldest first."""
        found: list[int] = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if name in words and str(self.config) in words and state != "Z":
                found.append(int(entry.name))
        return sorted(found)

    def stop(self, number: int = signal.SIGINT, seconds: float = 40) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


def mesh_yaml(
    folder: Path, providers: str, *, gateway: int, registry: int, models: Iterable[str] = (), store: str = ""
) -> Path:
    """A mesh with these inference providers, each a line of YAML. `store`: instead of a file in the folder."""
    path = folder / "mesh.yaml"
    store = store or f"sqlite:///{folder / 'registry.db'}"
    declared = "".join(f"- model_id: {model}\n" for model in models)
    path.write_text(
        "version: 1\n"
        f'registry: {{store: "{store}", address: "127.0.0.1:{registry}"}}\n'
        f'gateway: {{address: "127.0.0.1:{gateway}"}}\n'
        f"providers:\n  inference:\n{providers}" + (f"models:\n{declared}" if declared else "")
    )
    return path


@contextmanager
def running_up(
    folder: Path,
    providers: str,
    *,
    models: Iterable[str] = (),
    gateway: int | None = None,
    store: str = "",
    **more: str,
) -> Generator[Up]:
    """Started, not yet ready, with `more` in its environment. At the end it is stopped, if it is still there."""
    gateway, registry = gateway or free_port(), free_port()
    config = mesh_yaml(folder, providers, gateway=gateway, registry=registry, models=models, store=store)
    process = subprocess.Popen(
        (*STACKMESH, "up", str(config)),
        cwd=folder,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    up = Up(folder, f"127.0.0.1:{gateway}", f"127.0.0.1:{registry}", config, process)
    reader = threading.Thread(target=lambda: up.lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        yield up
    finally:
        if process.poll() is None:
            up.stop(signal.SIGTERM)
        reader.join(5)
        process.stdout.close()


def stackmesh(*arguments: str, said: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        (*STACKMESH, *arguments),
        input=said,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
