"""What the configurations of providers on HTTP servers have in common."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from services.inference.remote.http import Endpoint
from services.inference.remote.urls import Url
from stackmesh.config import Frozen


class ServerConfig(Frozen):
    """Where a server is, and how patient to be with it."""

    url: Url
    max_tokens: PositiveInt | None = None
    """For requests that set none. Absent: the backend's own limit."""
    connect_timeout: PositiveFloat = 5.0
    """Seconds to connect, or to wait for a connection to become free."""
    read_timeout: PositiveFloat = 60.0
    """Seconds of silence, before the first token or between two. What is not streamed is silent to its end."""
    max_connections: PositiveInt = 256
    """Calls at a time; more wait for `connect_timeout`. It is for the server to say when it has too many."""
    tls_verify: bool = True
    """Whether the certificate of an https server has to be valid."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.connect_timeout, self.read_timeout, self.max_connections, self.tls_verify)
