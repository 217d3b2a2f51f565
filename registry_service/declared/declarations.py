"""The resources the YAML declares, as the rows a user's calls would ask for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import ParseDict, ParseError

from stackmesh import names, payloads
from stackmesh.config import SECTIONS, Config, ConfigError, Declaration, declared
from stackmesh.errors import InvalidField
from stackmesh.registry.v1 import resources_pb2
from stackmesh.resources import KINDS, Kind, Resource
from stackmesh.routes import ResourceType

Declarations = Mapping[ResourceType.ValueType, Mapping[str, Resource]]
"""By type and identifier."""


def declarations(config: Config) -> Declarations:
    """Raises ConfigError for what a user's call would be refused for."""
    found: dict[ResourceType.ValueType, Mapping[str, Resource]] = {}
    for section, entries in declared(config).items():
        kind = KINDS[SECTIONS[section]]
        rows = [_row(f"{section}[{index}]", kind, entry) for index, entry in enumerate(entries)]
        found[kind.resource_type] = {row.identifier: row for row in rows}
    return found


def _row(where: str, kind: Kind, declaration: Declaration) -> Resource:
    row = kind.message(
        identifier=getattr(declaration, f"{kind.word}_id"),
        provider_id=declaration.provider_id or "",
        provider_resource_id=getattr(declaration, f"provider_{kind.word}_id") or "",
    )
    _read(f"{where}.{kind.payload}", getattr(declaration, kind.payload), getattr(row, kind.payload))
    try:
        names.check_identifier(f"{kind.word}_id", row.identifier)
        payloads.check(kind, row)
    except InvalidField as error:
        raise ConfigError(f"{where}.{error}") from None
    return row


def _read(where: str, tree: Mapping[str, Any], message: Any) -> None:
    problem = "may hold text, numbers, booleans, lists and mappings only"
    if isinstance(message, resources_pb2.MemoryBankParams):
        problem = "a value is not of its key's type" if len(tree) < 2 else "may hold one kind of bank only"
        _check_keys(where, tree, message.DESCRIPTOR)
    try:
        ParseDict(dict(tree), message)
    except (ParseError, TypeError, ValueError, OverflowError, AttributeError):  # whose text may show values
        raise ConfigError(f"{where}: {problem}") from None
    message.SetInParent()


def _check_keys(where: str, tree: Mapping[str, Any], descriptor: Descriptor) -> None:
    for key, value in tree.items():
        field = descriptor.fields_by_name.get(key)
        if field is None:
            known = list(descriptor.fields_by_name)
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known) or 'nothing'}"
            raise ConfigError(f"{where}.{key}: unknown key; {hint}")
        if field.message_type is not None:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}.{key}: must be a mapping, {{}} if there is nothing to say")
            _check_keys(f"{where}.{key}", cast("Mapping[str, Any]", value), field.message_type)
