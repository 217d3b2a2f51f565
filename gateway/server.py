"""The gateway process: the proxy on the registry's live snapshot, Inspect, health and reflection, at one address."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from gateway import health, own
from gateway.balancer import Balancer
from gateway.channels import Channels
from gateway.gauges import gauges
from gateway.grace import Grace
from gateway.inspect import InspectService
from gateway.last_good import LastGood
from gateway.misses import LIMIT, Misses, Position
from gateway.proxy import Proxy
from gateway.routing import ByName, ToRegistry
from gateway.snapshot import SnapshotView
from gateway.standing import Standing
from stackmesh import routes
from stackmesh.config import Config
from stackmesh.metrics import exposing
from stackmesh.reflector import Reflector, RegistrySource
from stackmesh.registry.v1.watch_service_pb2 import GetRevisionRequest
from stackmesh.registry.v1.watch_service_pb2_grpc import WatchServiceStub
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import PUBLIC_LISTENER, registry_channel


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    listener: Listener
    view: SnapshotView

    @property
    def address(self) -> str:
        """`host:port`, with the real port."""
        return self.listener.address

    async def told(self) -> None:
        """Wait until the registry itself has told what there is."""
        snapshot = self.view.snapshot
        while snapshot is None or snapshot.saved_at is not None:
            snapshot = await self.view.changed(snapshot)


@asynccontextmanager
async def running(config: Config, *, descriptor_set: bytes | None = None) -> AsyncGenerator[Gateway]:
    """The whole process. It waits for nothing: without a registry it routes by its last good snapshot, or says
    NOT_SERVING, and goes on trying.

    `descriptor_set` holds every method and how it is routed; by default the mesh's own.
    """
    descriptor_set = descriptor_set or routes.bundled()
    methods = routes.load(descriptor_set)
    view = SnapshotView()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(registry_channel(config.registry.address))
        grace = Grace(view, lambda: reflector)
        reflector = Reflector(RegistrySource(registry, bare=True), grace)
        if config.gateway.snapshot_file is not None:
            last_good = LastGood(config.gateway.snapshot_file, config.registry.address)
            last_good.load(view)
            await stack.enter_async_context(last_good.kept(view, reflector))
        standing = Standing(view, reflector)
        misses = _misses(registry, reflector)
        channels = await stack.enter_async_context(Channels())
        balancer = Balancer(channels)
        by_name, to_registry = ByName(view, misses, standing), ToRegistry(config.registry.address)
        proxy = Proxy(methods, by_name, to_registry, balancer, config.gateway)

        def add_services(server: grpc.aio.Server) -> None:
            server.add_generic_rpc_handlers((proxy,))  # first: it is asked about every call
            own.add_inspect(InspectService(methods, view, channels, balancer, standing), server)
            own.add_reflection(methods.values(), descriptor_set, server)

        for work, name in (
            (channels.close_idle(), "close channels"),
            (channels.follow(view), "follow the instances"),
            (misses.run(), "settle misses"),
            (grace.run(), "let go of lost instances"),
            (reflector.run(), "reflect the registry"),
        ):
            await stack.enter_async_context(background(work, name))
        listener = await stack.enter_async_context(
            listening(config.gateway.address, options=PUBLIC_LISTENER, add_services=add_services)
        )
        await stack.enter_async_context(background(health.keep_true(listener, methods.values(), view), "tell health"))
        if config.gateway.metrics_address is not None:
            await stack.enter_async_context(exposing(config.gateway.metrics_address, gauges(view, standing)))
        yield Gateway(listener, view)


def _misses(registry: grpc.aio.Channel, reflector: Reflector) -> Misses:
    stub = WatchServiceStub(registry)

    async def read() -> Position:
        answer = await stub.GetRevision(GetRevisionRequest(), timeout=LIMIT)
        return answer.revision, answer.store_id

    return Misses(read, reflector.reached)
