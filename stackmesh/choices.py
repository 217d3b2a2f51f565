"""Enums in requests. proto3 takes any number for one, and a number nobody knows must not pass for nothing found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stackmesh.errors import InvalidField


class Enum(Protocol):
    """As protoc makes it."""

    def items(self) -> Sequence[tuple[str, int]]: ...


def check(field: str, value: int, enum: Enum) -> None:
    """Raise InvalidField, naming the enum's values, unless `value` is one of them. 0, which says nothing, is none."""
    known = {number: name for name, number in enum.items() if number}
    if value not in known:
        raise InvalidField(field, f"has no value {value}; there are: {', '.join(known.values())}")
