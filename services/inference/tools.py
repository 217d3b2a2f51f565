"""Tools: their names, their parameters, and the calls that models write."""

from __future__ import annotations

import uuid
from typing import Any

from pydantic_core import from_json

from services.inference.values import plain, to_struct
from stackmesh.common.v1 import content_pb2


def name_of(name: content_pb2.ToolName) -> str:
    """A tool's name on the wire. A builtin tool is called as Llama models call it: `brave_search`."""
    return content_pb2.BuiltinTool.Name(name.builtin)[13:].lower() if name.HasField("builtin") else name.custom


def named(name: str) -> content_pb2.ToolName:
    """The tool that is called so on the wire."""
    builtin = f"BUILTIN_TOOL_{name.upper()}"
    if name.islower() and builtin in content_pb2.BuiltinTool.keys()[1:]:
        return content_pb2.ToolName(builtin=content_pb2.BuiltinTool.Value(builtin))
    return content_pb2.ToolName(custom=name)


def schema(tool: content_pb2.ToolDefinition) -> dict[str, Any]:
    """Its parameters as a JSON schema, sorted by name, as in `values.to_json`."""
    parameters = sorted(tool.parameters.items())
    return {
        "type": "object",
        "properties": {name: _parameter(parameter) for name, parameter in parameters},
        "required": [name for name, p in parameters if p.required or not p.HasField("required")],
    }


def _parameter(parameter: content_pb2.ToolParameter) -> dict[str, Any]:
    body: dict[str, Any] = {"type": parameter.param_type}
    if parameter.HasField("description"):
        body["description"] = parameter.description
    if parameter.HasField("default"):
        body["default"] = plain(parameter.default)
    return body


def written_call(call_id: str | None, name: str | None, arguments: str | None) -> content_pb2.ToolCall | None:
    """A whole call whose arguments are text, or None if it has no name or they are no JSON object."""
    try:
        parsed = from_json(arguments or "{}", allow_inf_nan=False)
    except ValueError:
        return None
    return call(call_id, name, parsed) if name and isinstance(parsed, dict) else None  # pyright: ignore[reportUnknownArgumentType] -- keys are strings


def call(call_id: str | None, name: str, arguments: dict[str, Any]) -> content_pb2.ToolCall:
    """A call. One without an id gets one."""
    call_id = call_id or f"call-{uuid.uuid4().hex}"
    return content_pb2.ToolCall(call_id=call_id, tool_name=named(name), arguments=to_struct(arguments))
