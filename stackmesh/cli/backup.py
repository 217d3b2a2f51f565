"""The file of `registry export` and `registry import`.

    version: 1
    models:
    - {model_id: mine, provider_id: local, provider_model_id: smollm2, metadata: {team: search}}
    not_restored:            # for reading only: the mesh's YAML and discovery make these
      models:
      - {model_id: smollm2, source: config, provider_id: local, provider_model_id: smollm2}

Its sections are written like those of a mesh's YAML, with its names and rules; variables are not replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from stackmesh.cli.lined import parse
from stackmesh.cli.show import as_yaml
from stackmesh.client.registrations import bank_params
from stackmesh.client.structs import from_struct, to_struct
from stackmesh.config import (
    AgentDeclaration,
    ConfigError,
    Declaration,
    Frozen,
    MemoryBankDeclaration,
    ModelDeclaration,
    ShieldDeclaration,
    validate,
)
from stackmesh.errors import InvalidField
from stackmesh.registry.v1.resources_pb2 import SOURCE_USER, MemoryBank, MemoryBankParams, Source
from stackmesh.resources import KINDS, Kind, Resource, kind_of

VERSION: Final = 1
NOT_RESTORED: Final = "not_restored"
_OF_A_MESH: Final = frozenset(("registry", "gateway", "services", "providers"))
"""Sections that only the YAML of a mesh has."""


class _File(Frozen):
    version: Literal[1]
    models: tuple[ModelDeclaration, ...] = ()
    shields: tuple[ShieldDeclaration, ...] = ()
    memory_banks: tuple[MemoryBankDeclaration, ...] = ()
    agents: tuple[AgentDeclaration, ...] = ()
    not_restored: Mapping[str, tuple[Mapping[str, Any], ...]] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """One registration of a file."""

    kind: Kind
    name: str
    provider_id: str | None
    provider_name: str | None
    """The provider's name for it, or an alias of it."""
    payload: Message
    """Its metadata or params, empty ones too: a backup says that there were none."""

    def fields(self) -> Mapping[str, Any]:
        """As the client's methods take them."""
        payload = from_struct(self.payload) if isinstance(self.payload, Struct) else self.payload
        said = {"provider_id": self.provider_id, f"provider_{self.kind.word}_id": self.provider_name}
        return {**said, self.kind.payload: payload}

    def row(self) -> Resource:
        """What it registers, as far as the file says it."""
        return self.kind.message(identifier=self.name, **{self.kind.payload: self.payload})  # pyright: ignore[reportArgumentType] -- the kind's own

    def __str__(self) -> str:
        return f"{self.kind.words} {self.name}"


@dataclass(frozen=True, slots=True)
class Backup:
    """What a file holds."""

    entries: Sequence[Entry]
    """Models first: memory banks name them."""
    not_restored: int
    """How many are in it for reading only."""


def write(resources: Iterable[Resource]) -> str:
    """The file, without its heading comment."""
    own: dict[str, list[object]] = {}
    others: dict[str, list[object]] = {}
    for resource in resources:
        kind = kind_of(resource)
        if resource.source == SOURCE_USER:
            own.setdefault(kind.plural, []).append(_written(kind, resource))
        else:
            source = Source.Name(resource.source).removeprefix("SOURCE_").lower()
            others.setdefault(kind.plural, []).append(_written(kind, resource, source=source))
    tree = {"version": VERSION, **_in_order(own)}
    return as_yaml({**tree, NOT_RESTORED: _in_order(others)} if others else tree)


def read(path: Path | None) -> Backup:
    """From standard input without a path. Raises ConfigError with every problem: the file, the line, what is wrong and
    what to do.
    """
    name = "standard input" if path is None else str(path)
    try:
        text = (sys.stdin.buffer.read() if path is None else path.read_bytes()).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is not UTF-8 text; was it written by `stackmesh registry export`?") from None
    tree, lines = parse(name, text)
    if not _OF_A_MESH.isdisjoint(tree):
        raise ConfigError(
            f"{name}: is the YAML of a mesh, not a backup; what it declares is registered when it starts: stackmesh up"
        )
    try:
        file = validate(_File, tree)
    except ConfigError as error:
        raise ConfigError(
            "\n".join(f"{lines.at(line.partition(': ')[0])}: {line}" for line in str(error).splitlines())
        ) from None
    entries: list[Entry] = []
    problems: list[str] = []
    for kind in KINDS.values():
        seen: set[str] = set()
        for index, declaration in enumerate(cast("Sequence[Declaration]", getattr(file, kind.plural))):
            where = f"{kind.plural}[{index}]"
            try:
                entries.append(_entry(kind, declaration, seen))
            except InvalidField as error:
                problems.append(f"{lines.at(f'{where}.{error.field}')}: {where}.{error}")
    if problems:
        raise ConfigError("\n".join(problems))
    return Backup(entries, sum(len(section) for section in file.not_restored.values()))


def _entry(kind: Kind, declaration: Declaration, seen: set[str]) -> Entry:
    name: str = getattr(declaration, f"{kind.word}_id")
    if name in seen:
        raise InvalidField(f"{kind.word}_id", f"{name} is there twice; keep one of them")
    seen.add(name)
    payload = getattr(declaration, kind.payload)
    made = bank_params(payload) if kind.message is MemoryBank else to_struct(kind.payload, payload)
    return Entry(kind, name, declaration.provider_id, getattr(declaration, f"provider_{kind.word}_id"), made)


def _written(kind: Kind, resource: Resource, **more: str) -> Mapping[str, object]:
    payload = getattr(resource, kind.payload)
    said = {
        f"{kind.word}_id": resource.identifier,
        **more,
        "provider_id": resource.provider_id,
        f"provider_{kind.word}_id": resource.provider_resource_id,
        kind.payload: _payload(payload),
    }
    return {key: value for key, value in said.items() if value}


def _payload(payload: Message) -> Mapping[str, Any]:
    if isinstance(payload, MemoryBankParams):
        return MessageToDict(payload, preserving_proto_field_name=True)
    return from_struct(cast("Struct", payload))


def _in_order(sections: Mapping[str, Sequence[object]]) -> dict[str, object]:
    return {kind.plural: sections[kind.plural] for kind in KINDS.values() if kind.plural in sections}
