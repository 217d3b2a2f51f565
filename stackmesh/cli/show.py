"""What the registry knows, as text: for people, and for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stackmesh.client.structs import from_struct

Cell = str | Text

_CONTROLS: Final = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_DUMPER: Final[Any] = yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper
_STYLES: Final = {
    **dict.fromkeys(("serving", "ok"), "green"),
    **dict.fromkeys(("pending", "degraded"), "yellow"),
    **dict.fromkeys(("not serving", "unavailable"), "red"),
}


def inert(text: str) -> str:
    """What others say must not move the cursor or retitle the window: no control characters reach a terminal."""
    return text.translate(_CONTROLS)


def word(name: str, prefix: str) -> str:
    """`not serving` for SERVING_STATE_NOT_SERVING."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def counted(number: int, plural: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {plural.removesuffix('s') if number == 1 else plural}"


def state(value: str) -> Text:
    return Text(value, style=_STYLES.get(value, ""))


def plain(message: Message) -> dict[str, Any]:
    """Every field under its proto name, unset ones too: programs can rely on them."""
    bare, structs = type(message)(), dict[str, Any]()
    bare.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None and field.message_type.full_name == Struct.DESCRIPTOR.full_name:
            structs[field.name] = _finite(from_struct(getattr(message, field.name)))
            bare.ClearField(field.name)  # its numbers would become doubles, and some cannot be written
    fields = MessageToDict(bare, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {**fields, **structs}


def as_json(data: object, *, indent: int | None = 2) -> str:
    return json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)


def as_yaml(data: object) -> str:
    """In the order of the fields."""
    return yaml.dump(data, Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=120)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(inert(cell)) for cell in row))
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width; lines stay whole
    Console(width=width).print(table)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; protobuf's JSON writes them as text."""
    match value:
        case float() if not math.isfinite(value):
            return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
        case dict():
            return {key: _finite(item) for key, item in cast("Mapping[str, Any]", value).items()}
        case list():
            return [_finite(item) for item in cast("Sequence[Any]", value)]
        case _:
            return value
