"""Text in and out of `Content`."""

from __future__ import annotations

from collections.abc import Sequence

from stackmesh.common.v1 import content_pb2 as pb


def content(text: str) -> pb.Content:
    """A content of one text."""
    return pb.Content(items=[pb.ContentItem(text=text)])


def plain(content: pb.Content) -> str:
    """The text of a content, its pictures left out."""
    return "".join(item.text for item in content.items)


def has_image(content: pb.Content) -> bool:
    """Whether there is a picture in it."""
    return any(item.HasField("image") for item in content.items)


def spoken(message: pb.Message) -> pb.Content:
    """The content of a message, whoever said it."""
    match message.WhichOneof("message"):
        case "system":
            return message.system.content
        case "user":
            return message.user.content
        case "completion":
            return message.completion.content
        case "tool_response":
            return message.tool_response.content
        case None:
            return pb.Content()


def last_said(messages: Sequence[pb.Message]) -> str:
    """The text of the last message."""
    return plain(spoken(messages[-1])) if messages else ""
