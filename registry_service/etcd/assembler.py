"""Whole revisions, of the pieces in which they come.

One answer holds many revisions, and etcd cuts an answer that is too large into pieces, if need be within a revision.
That a revision is complete is said by an event of a later one, or by the end of the answer; only the last one waits for
that.
"""

from __future__ import annotations

from collections.abc import Sequence

from stackmesh.etcd.v1 import etcd_pb2 as pb


class Assembler:
    """Of one watch."""

    def __init__(self) -> None:
        self._last: list[pb.Event] = []  # of one revision, which may go on in the next piece

    def take(self, answer: pb.WatchResponse) -> Sequence[Sequence[pb.Event]]:
        """The revisions that are complete with this piece, in order: the events of each."""
        whole: list[Sequence[pb.Event]] = []
        for event in answer.events:
            if self._last and event.kv.mod_revision != self._last[0].kv.mod_revision:
                whole.append(self._last)
                self._last = []
            self._last.append(event)
        if self._last and not answer.fragment:
            whole.append(self._last)
            self._last = []
        return whole

    def __repr__(self) -> str:
        return f"<Assembler [{len(self._last)} events wait]>"
