"""The gateway process: the proxy on the registry's live snapshot, Inspect, health and reflection, at one address."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from gateway import health, own
from gateway.balancer import Balancer
from gateway.channels import Channels
from gateway.inspect import InspectService
from gateway.misses import LIMIT, Misses
from gateway.proxy import Proxy
from gateway.routing import ByName, ToRegistry
from gateway.snapshot import SnapshotView
from stackmesh import routes
from stackmesh.config import Config
from stackmesh.reflector import Reflector
from stackmesh.registry.v1.watch_service_pb2 import GetRevisionRequest
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import PUBLIC_LISTENER, internal_channel


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    listener: Listener
    view: SnapshotView

    @property
    def address(self) -> str:
        """`host:port`, with the real port."""
        return self.listener.address


@asynccontextmanager
async def running(config: Config, *, descriptor_set: bytes | None = None) -> AsyncGenerator[Gateway]:
    """The whole process. It waits for nothing: without a registry it listens, says NOT_SERVING, and goes on trying.

    `descriptor_set` holds every method and how it is routed; by default the mesh's own.
    """
    descriptor_set = descriptor_set or routes.bundled()
    methods = routes.load(descriptor_set)
    view = SnapshotView()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(internal_channel(config.registry.address))
        reflector = Reflector(registry, view)
        misses = _misses(registry, reflector)
        channels = await stack.enter_async_context(Channels())
        balancer = Balancer(channels)
        by_name, to_registry = ByName(view, misses), ToRegistry(config.registry.address)
        proxy = Proxy(methods, by_name, to_registry, balancer, config.gateway)

        def add_services(server: grpc.aio.Server) -> None:
            server.add_generic_rpc_handlers((proxy,))  # first: it is asked about every call
            own.add_inspect(InspectService(methods, view, channels, balancer, reflector), server)
            own.add_reflection(methods.values(), descriptor_set, server)

        for work, name in (
            (channels.close_idle(), "close channels"),
            (channels.follow(view), "follow the instances"),
            (misses.run(), "settle misses"),
            (reflector.run(), "reflect the registry"),
        ):
            await stack.enter_async_context(background(work, name))
        listener = await stack.enter_async_context(
            listening(config.gateway.address, options=PUBLIC_LISTENER, add_services=add_services)
        )
        await stack.enter_async_context(background(health.keep_true(listener, methods.values(), view), "tell health"))
        yield Gateway(listener, view)


def _misses(registry: grpc.aio.Channel, reflector: Reflector) -> Misses:
    stub = WatchServiceStub(registry)

    async def read() -> int:
        return (await stub.GetRevision(GetRevisionRequest(), timeout=LIMIT)).revision

    return Misses(read, reflector.reached)
