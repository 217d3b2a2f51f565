"""Which processes a configuration needs, in the order of need."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from stackmesh.config import Config
from stackmesh.routes import Api


@dataclass(frozen=True, slots=True)
class Command:
    """A process to keep running."""

    name: str
    argv: tuple[str, ...]


def commands(config: Config, path: Path | None) -> tuple[Command, ...]:
    """The registry, a service for each API that has providers, the gateway. `path` is the file (None: the default)."""
    apis = [Api.Name(api).removeprefix("API_").lower() for api in Api.values() if config.providers.of(api)]
    return (
        _python("registry", "registry_service", path),
        *(_python(api, f"services.{api}", path) for api in apis),
        _python("gateway", "gateway", path),
    )


def _python(name: str, module: str, path: Path | None) -> Command:
    config = () if path is None else ("--config", str(path))
    return Command(name, (sys.executable, "-m", module, *config, "--end-with-stdin"))
