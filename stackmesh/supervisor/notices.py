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


class Inbox:
    """The socket of one run of a process, so that nobody else is heard."""

    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        """What the process finds in NOTIFY_SOCKET."""
        self._sock = sock

    def listen(self, heard: Heard) -> None:
        """From now on tell what is said, from the first word on: what came before has waited."""
        asyncio.get_running_loop().add_reader(self._sock, self._receive, heard)

    def _receive(self, heard: Heard) -> None:
        try:
            datagram = self._sock.recv(4096)
        except BlockingIOError:
            return
        lines = datagram.decode(errors="replace").splitlines()
        heard({key: _printable(value) for key, _, value in (line.partition("=") for line in lines)})

    def __repr__(self) -> str:
        return f"<Inbox {self.path}>"


@contextmanager
def inbox(folder: Path) -> Generator[Inbox]:
    """A socket in a private folder."""
    path = folder / f"{secrets.token_hex(4)}.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))
        try:
            yield Inbox(path, sock)
        finally:
            asyncio.get_running_loop().remove_reader(sock)
            path.unlink(missing_ok=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
