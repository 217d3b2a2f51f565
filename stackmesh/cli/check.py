"""stackmesh check: everything that is wrong with a configuration, before anything is started."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import typer

from stackmesh.cli.failures import say_error, told
from stackmesh.cli.show import counted
from stackmesh.config import declared, load
from stackmesh.supervisor.commands import python, same_code, service_modules, unhosted

_TIMEOUT: Final = 60.0


def run(path: Path, environment: Mapping[str, str]) -> None:
    """Ends with code 1 if there is a problem."""
    with told():
        config = load(path, environment)
        modules = ("registry_service", *service_modules(config).values())
        problems = [line for module in modules for line in _problems(module, path, environment)]
        for problem in problems:
            say_error(f"{path}: {problem}")
        if problems:
            raise typer.Exit(1)
        for remark in unhosted(config):
            typer.echo(f"{path}: {remark}")
        found = {"providers": sum(1 for _ in config.providers.all())}
        found |= {section.replace("_", " "): len(entries) for section, entries in declared(config).items() if entries}
        typer.echo(f"{path}: good: {', '.join(counted(number, words) for words, number in found.items())}")


def _problems(module: str, path: Path, environment: Mapping[str, str]) -> Sequence[str]:
    """What a process says of its part: who hosts providers knows their configurations, the registry what it refuses."""
    done = subprocess.run(  # noqa: S603 -- a module of ours
        (*python(module), "--config", str(path), "--check"),
        env=same_code(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode == 0:
        return ()
    return [line.removeprefix(f"{module}: ") for line in done.stderr.splitlines()[-20:]]
