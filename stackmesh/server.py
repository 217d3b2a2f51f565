"""A listening gRPC server, from its address to its drained end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from stackmesh import ports
from stackmesh.interceptors import Decided, Errors
from stackmesh.process import StartError
from stackmesh.transport import Options

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 25.0
"""How long calls in flight may go on after a stop was asked for. Below Kubernetes' 30 s."""

# The type stubs know the synchronous servicer only.
_HealthServicer: Any = cast("Any", health).aio.HealthServicer
_add_health: Any = cast("Any", health_pb2_grpc).add_HealthServicer_to_server

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Listener:
    """A server that answers calls at `address`, with the standard health service."""

    def __init__(self, address: str, health_servicer: Any) -> None:
        self.address = address
        """`host:port`, the port being the real one where 0 was asked for."""
        self._health = health_servicer

    async def set_serving(self, *services: str, serving: bool = True) -> None:
        """What health answers for these services; the empty name is the process as a whole."""
        for service in services:
            await self._health.set(service, SERVING if serving else NOT_SERVING)

    async def leave(self) -> None:
        """Health answers NOT_SERVING for everything from now on."""
        await self._health.enter_graceful_shutdown()

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"


@asynccontextmanager
async def listening(
    address: str,
    *,
    options: Options,
    add_services: Callable[[grpc.aio.Server], Any],
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    drain_seconds: float = DRAIN_SECONDS,
) -> AsyncGenerator[Listener]:
    """Serve while the body runs; then take no new call and let the others finish.

    Raises StartError, naming who holds it, if the port is taken.
    """
    server = grpc.aio.server(options=options, interceptors=list(interceptors))
    handlers: Any = _Handlers(server)
    add_services(handlers)
    servicer = _HealthServicer()
    await servicer.set("", NOT_SERVING)
    _add_health(servicer, Decided(server, Errors()))  # the gateway has no interceptors
    host, _, port = address.rpartition(":")
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        raise StartError(_why(address, int(port))) from None
    await server.start()
    listener = Listener(f"{host}:{bound}", servicer)
    log.info("listening on %s", listener.address)
    try:
        yield listener
    finally:
        await listener.leave()
        await server.stop(drain_seconds)


class _Handlers:
    """Takes services for a server, and leaves their methods unregistered.

    grpc.aio waits for each registered method on its own, which costs every call some 7 us for each of them.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The generic handlers do."""


def _why(address: str, port: int) -> str:
    holder = ports.holder(port)
    if holder is None:
        return f"cannot listen on {address}: the port is taken, or the address is not this machine's"
    return f"cannot listen on {address}: the port is held by {holder}; stop it, or choose another address"
