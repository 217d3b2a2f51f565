"""Which processes a configuration needs, in the order of need."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stackmesh.config import Config
from stackmesh.resources import api_word
from stackmesh.routes import Api

_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Command:
    """A process to keep running."""

    name: str
    argv: tuple[str, ...]


def commands(config: Config, path: Path | None) -> tuple[Command, ...]:
    """The registry, the services the providers need, the gateway. `path` is the file (None: the default)."""
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
    """The module of each API that has providers, and a service."""
    return {api: f"services.{api}" for api in _apis(config) if has_service(api)}


def unhosted(config: Config) -> Sequence[str]:
    """What to say of providers that nothing here can host."""
    return [
        f"providers.{api}: nothing in this version hosts {api} providers yet; "
        "what is declared with them stays pending until something does"
        for api in _apis(config)
        if not has_service(api)
    ]


def _apis(config: Config) -> Sequence[str]:
    return [api_word(api) for api in Api.values() if config.providers.of(api)]


def has_service(api: str) -> bool:
    """Whether stackmesh itself can host providers of an API."""
    return (_ROOT / "services" / api / "__main__.py").exists()
