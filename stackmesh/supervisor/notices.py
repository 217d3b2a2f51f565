"""Hears what one process says of itself: the receiving end of stackmesh/notify.py."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

Heard = Callable[[Mapping[str, str]], None]
"""Hears the assignments of one datagram: STATUS, READY, STOPPING."""


@contextmanager
def notices(folder: Path, heard: Heard) -> Generator[Path]:
    """A socket of its own for each run of a process, in a private folder, so that nobody else is heard."""
    path = folder / f"{secrets.token_hex(4)}.sock"
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))
        loop.add_reader(sock, _receive, sock, heard)
        try:
            yield path
        finally:
            loop.remove_reader(sock)
            path.unlink(missing_ok=True)


def _receive(sock: socket.socket, heard: Heard) -> None:
    try:
        datagram = sock.recv(4096)
    except BlockingIOError:
        return
    lines = datagram.decode(errors="replace").splitlines()
    heard({key: _printable(value) for key, _, value in (line.partition("=") for line in lines)})


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
