"""A channel to each member of the cluster, one of which is used until it fails.

gRPC's own balancing is not used: it would send a call to a member that is connected and frozen again and again.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Self

import grpc

from registry_service.etcd.tls import Pem
from registry_service.etcd.url import Location
from registry_service.etcd.wire import A, Method, Q
from stackmesh.process import StartError

log = logging.getLogger(__name__)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),  # etcd says what is too large
    ("grpc.keepalive_time_ms", 6_000),  # etcd closes connections that ping more often than every 5 s
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.bdp_probe", 0),  # its pings count, too
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long connecting may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # the client knows what may be sent twice
    ("grpc.use_local_subchannel_pool", 1),
)
_SETTLED: Final = (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE)


class Endpoint:
    """One member."""

    def __init__(self, address: str, pem: Pem | None, name: str) -> None:
        """`name` is in the certificate, if it is not the address."""
        self.address = address
        self.pem = pem
        self.channel = _channel(address, pem, name)
        self._callables: dict[str, Any] = {}

    def unary(self, method: Method[Q, A]) -> grpc.aio.UnaryUnaryMultiCallable[Q, A]:
        return self._callable(method, self.channel.unary_unary)

    def stream(self, method: Method[Q, A]) -> grpc.aio.StreamStreamMultiCallable[Q, A]:
        return self._callable(method, self.channel.stream_stream)

    @property
    def connected(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    async def settle(self) -> None:
        """Return when it is connected, or cannot be, as the next call will say. The caller sets the time limit."""
        while (state := self.channel.get_state(try_to_connect=True)) not in _SETTLED:
            await self.channel.wait_for_state_change(state)

    def _callable(self, method: Method[Q, A], make: Any) -> Any:
        found = self._callables.get(method.path)
        if found is None:
            found = make(method.path, method.question.SerializeToString, method.answer.FromString)
            self._callables[method.path] = found
        return found

    def __repr__(self) -> str:
        return f"<Endpoint {self.address}>"


class Endpoints:
    """The members of a location, in its order. Entering reads the TLS files and raises StartError.

    The files may be exchanged at any time: gRPC would go on by what was in them at first.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._endpoints: list[Endpoint] = []
        self._at = 0

    async def __aenter__(self) -> Self:
        pem = self._location.pem()
        self._endpoints = [self._endpoint(address, pem) for address in self._location.endpoints]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        endpoints, self._endpoints = self._endpoints, []
        for endpoint in endpoints:
            await endpoint.channel.close()

    @property
    def open(self) -> bool:
        return bool(self._endpoints)

    @property
    def tls(self) -> bool:
        return bool(self._location.tls)

    @property
    def current(self) -> Endpoint:
        return self._endpoints[self._at]

    def __len__(self) -> int:
        return len(self._location.endpoints)

    async def leave(self, endpoint: Endpoint) -> None:
        """It failed: the next one is the current, unless somebody else has seen to that."""
        if self._endpoints and endpoint is self.current:
            self._at = (self._at + 1) % len(self._endpoints)
        if endpoint.pem is not None and endpoint in self._endpoints:
            await self._renew(endpoint)

    async def _renew(self, endpoint: Endpoint) -> None:
        """Connect anew if what it was connected with is no longer what the files hold."""
        try:
            pem = self._location.pem()
        except StartError as error:  # they may be about to be exchanged
            log.warning("%s; going on with what was in it", error)
            return
        if pem != endpoint.pem:
            log.info("the certificates for etcd at %s have been exchanged: connecting anew", endpoint.address)
            self._endpoints[self._endpoints.index(endpoint)] = self._endpoint(endpoint.address, pem)
            await endpoint.channel.close()

    def _endpoint(self, address: str, pem: Pem | None) -> Endpoint:
        return Endpoint(address, pem, self._location.name)

    def __repr__(self) -> str:
        return f"<Endpoints {self._endpoints} [{self._at}]>"


def _channel(address: str, pem: Pem | None, name: str) -> grpc.aio.Channel:
    if pem is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", name)) if name else _OPTIONS
    return grpc.aio.secure_channel(address, pem.credentials(), options=options)
