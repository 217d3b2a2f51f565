"""Content and messages from plain text."""

from __future__ import annotations

from stackmesh.common.v1 import content_pb2 as pb


def text(value: str) -> pb.Content:
    """A content of one text."""
    return pb.Content(items=[pb.ContentItem(text=value)])


def user(value: str) -> pb.Message:
    """What the user says."""
    return pb.Message(user=pb.UserMessage(content=text(value)))


def system(value: str) -> pb.Message:
    """Instructions to the model. They come before everything else."""
    return pb.Message(system=pb.SystemMessage(content=text(value)))


def assistant(value: str) -> pb.Message:
    """What the model said before."""
    reason = pb.StopReason.STOP_REASON_END_OF_TURN
    return pb.Message(completion=pb.CompletionMessage(content=text(value), stop_reason=reason))
