"""What is a resource's own, its metadata or parameters: how large, and what may be in it."""

from __future__ import annotations

import math
from typing import Any, Final, cast

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from stackmesh import names
from stackmesh.errors import InvalidField
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import Kind, Resource

LIMIT: Final = 16 * 1024
"""Bytes of a resource's metadata or parameters."""
CHUNK_LIMIT: Final = 100_000
"""Tokens in a piece of a vector bank."""
DEPTH_LIMIT: Final = 20
"""How deep metadata may be nested. A level takes three messages, parsers give up at 100, and a watch wraps the row
in some more: what could be registered but not be parsed there would stop every gateway.
"""


def check(kind: Kind, row: Resource) -> None:
    """Raises InvalidField."""
    payload: Any = getattr(row, kind.payload)
    if (size := payload.ByteSize()) > LIMIT:
        raise InvalidField(kind.payload, f"takes {size} bytes, at most {LIMIT} are allowed")
    if isinstance(row, pb.MemoryBank):
        _check_bank(row.params)
    else:
        _check_struct(kind.payload, payload, 1)


def given(kind: Kind, row: Resource) -> bool:
    """Whether the row says anything about it, be it that it is empty."""
    return cast("Any", row).HasField(kind.payload)


def differ(kind: Kind, one: Resource, other: Resource) -> bool:
    """Whether two rows have different ones."""
    return getattr(one, kind.payload) != getattr(other, kind.payload)


def _check_bank(params: pb.MemoryBankParams) -> None:
    kinds = [field.name for field in pb.MemoryBankParams.DESCRIPTOR.oneofs_by_name["kind"].fields]
    if params.WhichOneof("kind") is None:
        raise InvalidField("params", f"must say the kind of bank, one of: {', '.join(kinds)}")
    if params.HasField("vector"):
        _check_vector(params.vector)


def _check_vector(vector: pb.VectorParams) -> None:
    names.check_resource_name("params.vector.embedding_model", vector.embedding_model)
    size, overlap = vector.chunk_size_in_tokens, vector.overlap_size_in_tokens
    if size == 0:
        raise InvalidField("params.vector.chunk_size_in_tokens", f"is required: 1 to {CHUNK_LIMIT}")
    if not 1 <= size <= CHUNK_LIMIT:
        raise InvalidField("params.vector.chunk_size_in_tokens", f"is {size}, must be 1 to {CHUNK_LIMIT}")
    if not 0 <= overlap < size:
        raise InvalidField(
            "params.vector.overlap_size_in_tokens", f"is {overlap}, must be 0 to {size - 1}: less than a whole chunk"
        )


def _check_struct(field: str, value: Struct | ListValue, depth: int) -> None:
    """What JSON and YAML cannot say would come back from no backup."""
    if depth > DEPTH_LIMIT:
        raise InvalidField(field, f"is nested more than {DEPTH_LIMIT} levels deep")
    values = value.fields.values() if isinstance(value, Struct) else value.values
    for one in values:
        _check_value(field, one, depth)


def _check_value(field: str, value: Value, depth: int) -> None:
    match value.WhichOneof("kind"):
        case "number_value" if not math.isfinite(value.number_value):
            raise InvalidField(field, "holds a number that is not finite")
        case "struct_value":
            _check_struct(field, value.struct_value, depth + 1)
        case "list_value":
            _check_struct(field, value.list_value, depth + 1)
        case None:
            raise InvalidField(field, "holds a value of no type")
        case _:
            pass
