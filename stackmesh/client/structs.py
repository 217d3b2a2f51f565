"""Between Python's values and protobuf's Struct, whose only number is the double. Nothing is bent on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value

from stackmesh.errors import InvalidField

EXACT: Final = 2**53
"""Whole numbers up to this one are doubles without loss."""


def to_struct(field: str, values: Mapping[str, Any]) -> Struct:
    """The values as a Struct. Raises InvalidField, with the path, for what one cannot hold as it is."""
    try:
        return _to_struct(field, values)
    except RecursionError:
        raise InvalidField(field, "is nested too deeply, or contains itself") from None


def from_struct(struct: Struct) -> dict[str, Any]:
    """The values of a Struct, keys in order; numbers that are whole as int."""
    return {key: _from_value(struct.fields[key]) for key in sorted(struct.fields)}


def _to_struct(at: str, values: Mapping[str, Any]) -> Struct:
    return Struct(fields={_key(at, key): _to_value(f"{at}.{key}", value) for key, value in values.items()})


def _key(at: str, key: object) -> str:
    if isinstance(key, str):
        return key
    raise InvalidField(at, f"has the key {key!r}, which is not text: put it in quotes")


def _to_value(at: str, value: object) -> Value:
    match value:
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case str():
            return Value(string_value=value)
        case int() | float():
            return Value(number_value=_number(at, value))
        case Mapping():
            return Value(struct_value=_to_struct(at, cast("Mapping[str, Any]", value)))
        case list() | tuple():
            several = cast("Sequence[object]", value)
            return Value(list_value=ListValue(values=[_to_value(f"{at}[{i}]", v) for i, v in enumerate(several)]))
        case _:
            raise InvalidField(at, f"is a {type(value).__name__}, which cannot be kept: write it as text")


def _number(at: str, value: float) -> float:
    if isinstance(value, int):
        if abs(value) > EXACT and (abs(value) > 1 << 1023 or int(float(value)) != value):
            raise InvalidField(at, "is a number with more digits than can be kept: write it as text")
    elif not math.isfinite(value):
        raise InvalidField(at, f"is {value}, which is no number: write it as text")
    return float(value)


def _from_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            whole = number.is_integer() and abs(number) <= EXACT and str(number) != "-0.0"
            return int(number) if whole else number
        case "struct_value":
            return from_struct(value.struct_value)
        case "list_value":
            return [_from_value(item) for item in value.list_value.values]
        case _:
            return None
