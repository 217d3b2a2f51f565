"""JSON objects in and out of `Struct`, which knows no integers."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from stackmesh.errors import InvalidField


def to_json(struct: Struct) -> dict[str, Any]:
    """The object. A whole number is an int: `"minLength": 5.0` is refused by some servers. Raises InvalidField for NaN
    and infinity.

    Sorted by name: a map of protobuf has another order in each process, and so a model would read another prompt.
    """
    return {name: plain(value) for name, value in sorted(struct.fields.items())}


def plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            return _number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return to_json(value.struct_value)
        case "list_value":
            return [plain(item) for item in value.list_value.values]
        case _:
            return None


def _number(number: float) -> float:
    if not math.isfinite(number):
        raise InvalidField("request", "holds a number that JSON cannot say (NaN or infinity)")
    return int(number) if number.is_integer() else number


def to_struct(value: dict[str, Any]) -> Struct:
    """The Struct of a JSON object."""
    struct = Struct()
    struct.update(value)
    return struct
