"""JSON out of protobuf reads the same in every process."""

from __future__ import annotations

import json

from services.inference import tools
from services.inference.values import to_json, to_struct
from tests.contracts.inference_provider.subject import tool

NAMES = [f"name-{n:02}" for n in range(30)]  # in their own order by chance once in 30!


def test_objects_are_sorted_by_name() -> None:
    found = to_json(to_struct({name: {inner: [1, 0.5, None] for inner in reversed(NAMES)} for name in reversed(NAMES)}))
    assert list(found) == list(found["name-00"]) == NAMES
    assert json.dumps(found["name-00"]["name-00"]) == "[1, 0.5, null]"


def test_parameters_of_a_tool_are_sorted_by_name() -> None:
    schema = tools.schema(tool("many", **dict.fromkeys(reversed(NAMES), "string")))
    assert list(schema["properties"]) == schema["required"] == NAMES
