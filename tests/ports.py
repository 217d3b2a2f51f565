"""Ports for what tests start: no two of them are ever given the same one."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_FIRST: Final = 10_000
_EACH: Final = 1_000
"""Ports of a worker of pytest-xdist. All are below those that the kernel hands out to who connects, so that nobody
takes one before its server listens, or while that is down."""
_WORKERS: Final = 20


def _all() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _WORKERS
    start = secrets.randbelow(_EACH)  # another run may go on beside this one
    while True:
        for n in range(_EACH):
            port = _FIRST + worker * _EACH + (start + n) % _EACH
            if _is_free(port):
                yield port


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


_ports = _all()


def free_port() -> int:
    """A port of 127.0.0.1 at which nothing listens, and that no other test will be given for a long time."""
    return next(_ports)


def free_ports(count: int) -> list[int]:
    """`count` of them."""
    return [free_port() for _ in range(count)]
