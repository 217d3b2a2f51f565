"""Says to whoever started this process how far it is, in the protocol of systemd's sd_notify(3).

`stackmesh up` listens for it; so does systemd, for a unit of `Type=notify`. Without NOTIFY_SOCKET nothing is said.
"""

from __future__ import annotations

import socket


class Notifier:
    """Sends states to the datagram socket at `path` (NOTIFY_SOCKET; a leading @ is an abstract name)."""

    def __init__(self, path: str | None) -> None:
        self._path = path.replace("@", "\0", 1) if path and path.startswith("@") else path

    def status(self, text: str) -> None:
        """What is going on, in a few words, for a person."""
        self._send(f"STATUS={text}")

    def ready(self, text: str) -> None:
        """Start-up is over; calls are answered."""
        self._send(f"READY=1\nSTATUS={text}")

    def stopping(self, text: str) -> None:
        """Shutting down."""
        self._send(f"STOPPING=1\nSTATUS={text}")

    def _send(self, state: str) -> None:
        if self._path is None:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(state.encode(), self._path)
            except OSError:
                return  # nobody listens any more; that is no reason to fail
