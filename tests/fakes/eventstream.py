"""`application/vnd.amazon.eventstream`, written by hand: https://smithy.io/2.0/aws/amazon-eventstream.html (2026)."""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Mapping
from typing import Any

CONTENT_TYPE = "application/vnd.amazon.eventstream"
_STRING = 7


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """A prelude with its CRC, headers, a payload, and the CRC of all of it."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    lengths = struct.pack("!II", 12 + len(head) + len(payload) + 4, len(head))
    whole = lengths + struct.pack("!I", crc32(lengths)) + head + payload
    return whole + struct.pack("!I", crc32(whole))


def event(kind: str, body: Any) -> bytes:
    """An event whose payload is JSON."""
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, json.dumps(body, ensure_ascii=False).encode())


def exception(kind: str, text: str) -> bytes:
    """What ends a stream that fails, as its service model has it: throttlingException, ..."""
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return message(headers, json.dumps({"message": text}).encode())


def error(code: str, text: str) -> bytes:
    """What ends a stream in a way that its service model does not have."""
    return message({":error-code": code, ":error-message": text, ":message-type": "error"}, b"")


def _header(name: str, value: str) -> bytes:
    raw = value.encode()
    return struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", _STRING, len(raw)) + raw
