"""Tool calls as models write them, one after the other, made into deltas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.inference import tools
from stackmesh.inference.v1 import inference_service_pb2 as pb

_Parse = pb.ToolCallParseStatus


@dataclass(slots=True)
class _OpenCall:
    index: int
    call_id: str
    name: str = ""
    arguments: str = ""
    sent: int = 0
    """Characters of `arguments` that have been passed on."""


class ToolCalls:
    """STARTED, IN_PROGRESS for what of its arguments was flushed, then SUCCESS or FAILURE, for each call.

    A call is open until another begins or `close` is called.
    """

    def __init__(self) -> None:
        self._open: _OpenCall | None = None
        self.seen = False
        """Whether there was one."""

    def feed(self, index: int, call_id: str, name: str, arguments: str) -> Iterator[pb.ToolCallDelta]:
        """A piece of the call at `index`. Servers say id and name once, in its first piece."""
        opened = self._open
        if opened is None or index != opened.index or (call_id and call_id != opened.call_id):
            yield from self.close()
            opened = self._open = _OpenCall(index, call_id)
            self.seen = True
            yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_STARTED)
        opened.name = opened.name or name
        opened.arguments += arguments

    def flush(self) -> Iterator[pb.ToolCallDelta]:
        """What has been written and not yet passed on."""
        opened = self._open
        if opened is not None and opened.sent < len(opened.arguments):
            new = opened.arguments[opened.sent :]
            opened.sent = len(opened.arguments)
            yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_IN_PROGRESS, content=new)

    def close(self) -> Iterator[pb.ToolCallDelta]:
        """The end of the open call, if there is one."""
        yield from self.flush()
        opened, self._open = self._open, None
        if opened is None:
            return
        whole = tools.written_call(opened.call_id, opened.name, opened.arguments)
        if whole is None:
            status = _Parse.TOOL_CALL_PARSE_STATUS_FAILURE
            yield pb.ToolCallDelta(parse_status=status, content=opened.arguments)
        else:
            yield pb.ToolCallDelta(parse_status=_Parse.TOOL_CALL_PARSE_STATUS_SUCCESS, call=whole)
