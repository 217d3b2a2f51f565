"""The tables of names in models/*.yaml: the Llama models, and what each vendor calls them.

A table is checked when it is read. Whatever is wrong with one is a ConfigError that names the file, the place in it and
what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar, cast

import yaml

from services.inference.lookup import Listed, ModelLookup
from stackmesh.config import ConfigError, Frozen, ResourceName, validate
from stackmesh.nearest import hint

LLAMA = "llama"
R = TypeVar("R", bound=Frozen)


class Sku(Frozen):
    """A Llama model."""

    descriptor: ResourceName
    repo: ResourceName
    """On Hugging Face. Descriptors that differ in how the weights are split share one."""


class Row(Frozen):
    """A vendor's model."""

    id: ResourceName
    model: ResourceName | None = None
    """The descriptor of the Llama model it is; or the repository, for all descriptors that share it. Absent: it has no
    name but its own."""


class Llama:
    """The Llama models by their names."""

    def __init__(self, skus: Sequence[Sku], table: str) -> None:
        self.skus = skus
        self.names: Mapping[str, frozenset[str]] = dict(_names(skus, table))
        """By descriptor and by repository: all names of that model, its own too."""


def llama() -> Llama:
    """The Llama models."""
    return llama_of(_text(LLAMA), f"{LLAMA}.yaml")


def llama_of(text: str, table: str) -> Llama:
    """As `llama`, from the text of a table. Raises ConfigError."""
    return Llama(_read(text, table, Sku), table)


def llama_by_name() -> ModelLookup:
    """For backends that call a Llama model by its repository or its descriptor, as those do that the user runs."""
    return ModelLookup(Listed(name, names - {name}) for name, names in llama().names.items())


def provider(name: str) -> ModelLookup:
    """A vendor's models: `ollama`, `fireworks`, `together`, `bedrock`, `databricks`, `nvidia`."""
    return provider_of(_text(name), f"{name}.yaml", llama())


def provider_of(text: str, table: str, known: Llama) -> ModelLookup:
    """As `provider`, from the text of a table. Raises ConfigError."""
    return ModelLookup(Listed(id_, names) for id_, names in _aliases_of(text, table, known).items())


def aliases(name: str) -> Mapping[str, frozenset[str]]:
    """A vendor's models as `provider` knows them: what else each is called, by its id."""
    return _aliases_of(_text(name), f"{name}.yaml", llama())


def _aliases_of(text: str, table: str, known: Llama) -> Mapping[str, frozenset[str]]:
    rows = _read(text, table, Row)
    _check_ids(rows, table, known)
    return {row.id: _aliases(row, known) for row in rows}


def _aliases(row: Row, known: Llama) -> frozenset[str]:
    return known.names[row.model] - {row.id} if row.model is not None else frozenset()


def _names(skus: Sequence[Sku], table: str) -> Iterator[tuple[str, frozenset[str]]]:
    by_repo: dict[str, set[str]] = {}
    descriptors: set[str] = set()
    for index, sku in enumerate(skus):
        if sku.descriptor in descriptors:
            raise ConfigError(f"{table}[{index}].descriptor: {sku.descriptor} is there twice")
        descriptors.add(sku.descriptor)
        by_repo.setdefault(sku.repo, set()).add(sku.descriptor)
        yield sku.descriptor, frozenset((sku.descriptor, sku.repo))
    for index, sku in enumerate(skus):
        if sku.repo in descriptors and by_repo[sku.repo] != {sku.repo}:
            raise ConfigError(f"{table}[{index}].repo: {sku.repo} is a descriptor of the table, too")
    for repo, sharing in by_repo.items():
        yield repo, frozenset((repo, *sharing))


def _check_ids(rows: Sequence[Row], table: str, known: Llama) -> None:
    seen: set[str] = set()
    for index, row in enumerate(rows):
        if row.id in seen:
            raise ConfigError(f"{table}[{index}].id: {row.id} is there twice")
        seen.add(row.id)
        if row.model is not None and row.model not in known.names:
            raise ConfigError(
                f"{table}[{index}].model: no Llama model is called {row.model}; " + hint(row.model, known.names)
            )
        if row.id in known.names and (row.model is None or row.id not in known.names[row.model]):
            raise ConfigError(f"{table}[{index}].id: {row.id} is the name of another model: it would mean two things")


def _read(text: str, table: str, kind: type[R]) -> Sequence[R]:
    try:
        tree: object = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{table}: not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    if not isinstance(tree, list):
        raise ConfigError(f"{table}: must be a list of mappings with {', '.join(kind.model_fields)}")
    return [validate(kind, entry, f"{table}[{index}]") for index, entry in enumerate(cast("list[Any]", tree))]


def _text(name: str) -> str:
    return (resources.files("services.inference") / "models" / f"{name}.yaml").read_text(encoding="utf-8")
