"""How an adapter reaches its backend: HTTP of our own (http.py), or a vendor's SDK (sdk.py)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Self


class Reader(Protocol):
    """The body of an answer as it comes."""

    async def readany(self) -> bytes:
        """What has arrived, at least a byte; nothing at the end."""
        ...


class Transport(Protocol):
    """Requests to one backend. `async with` opens and closes its pool.

    - `key` is the credential of this request and of no other; None sends none.
    - Whatever goes wrong is a MeshError that keeps the backend's meaning and shows no credential.
    - Cancelling a call, or leaving `stream` before its end, closes the connection at once.
    - Calls wait for a free connection for a limited time, then raise QueueFull.
    """

    @property
    def where(self) -> str:
        """`host:port`, which is all of the URL that an error shows."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def get(self, path: str, key: str | None) -> Any:
        """The JSON of a short answer. Silence is BackendUnreachable: nobody waits for a list."""
        ...

    async def post(self, path: str, body: Mapping[str, Any], key: str | None) -> Any:
        """The JSON of an answer that comes as a whole."""
        ...

    def stream(self, path: str, body: Mapping[str, Any], key: str | None) -> AbstractAsyncContextManager[Reader]:
        """An answer whose body is yet to be read.

        What is raised while it is read becomes a MeshError on leaving the block. What is left of the body when the
        block ends is waited for a moment, so that the connection can be used again.
        """
        ...
