"""Which processes a configuration needs, in the order of need."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stackmesh.config import Config
from stackmesh.routes import Api

_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Command:
    """A process to keep running."""

    name: str
    argv: tuple[str, ...]


def commands(config: Config, path: Path | None) -> tuple[Command, ...]:
    """The registry, a service for each API that has providers, the gateway. `path` is the file (None: the default)."""
    modules = {"registry": "registry_service", **service_modules(config), "gateway": "gateway"}
    file = () if path is None else ("--config", str(path))
    return tuple(Command(name, (*python(module), *file, "--end-with-stdin")) for name, module in modules.items())


def python(module: str) -> tuple[str, ...]:
    """A command that runs a module of ours. Without -P a folder of that name, where it is called, would be run."""
    return (sys.executable, "-P", "-m", module)


def same_code(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment in which `python` finds our modules, installed or not."""
    path = (str(_ROOT), *filter(None, [environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": os.pathsep.join(path)}


def service_modules(config: Config) -> Mapping[str, str]:
    """The module of each API that has providers."""
    apis = [Api.Name(api).removeprefix("API_").lower() for api in Api.values() if config.providers.of(api)]
    return {api: f"services.{api}" for api in apis}
