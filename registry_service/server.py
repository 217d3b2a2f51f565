"""The registry, put together: store, services, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import grpc

from registry_service import stores
from registry_service.declared.declared import Declared
from registry_service.declared.discovered import Discovered
from registry_service.instances.announce import Announce
from registry_service.instances.drafts import Drafts
from registry_service.lists.instances import Instances
from registry_service.lists.providers import Providers
from registry_service.lists.watch import Watch
from registry_service.mirror.feed import Feed
from registry_service.mirror.mirror import Mirror
from registry_service.registering.handovers import Handovers
from registry_service.registering.registrations import Registrations
from registry_service.registering.resolve import Resolver
from registry_service.registering.service import DESCRIPTORS, all_handlers
from registry_service.stopping import EndStreams
from registry_service.store import Store
from stackmesh.config import Config
from stackmesh.errors import MeshError
from stackmesh.interceptors import Errors
from stackmesh.registry.v1 import (
    announce_service_pb2_grpc,
    instances_service_pb2_grpc,
    providers_service_pb2_grpc,
)
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import INTERNAL_LISTENER

log = logging.getLogger(__name__)

SERVICES: Final = (
    *(descriptor.full_name for descriptor in DESCRIPTORS.values()),
    *(f"stackmesh.registry.v1.{name}Service" for name in ("Providers", "Instances", "Announce", "Watch")),
)
KEPT_REVISIONS: Final = 10_000
"""How far a watcher may fall behind before it has to list again."""
_COMPACT_SECONDS: Final = 60.0
_HEALTH_SECONDS: Final = 0.5
_DRAIN_SECONDS: Final = 10.0  # the longest call asks instances for 5 s, and the last of them for 5 s more
_PATIENCE_SECONDS: Final = 3.0  # for a store that does not answer, before we say so ourselves


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    listener: Listener
    mirror: Mirror

    @property
    def address(self) -> str:
        """`host:port`, with the real port."""
        return self.listener.address


@asynccontextmanager
async def running(config: Config, store: Store | None = None) -> AsyncGenerator[Registry]:
    """The registry answers while the body runs. `store` replaces the configured one. Raises StartError.

    A store that cannot be reached is waited for a little; without it calls are answered, by saying so.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store or stores.open_store(config.registry.store))
        feed = Feed(store)
        mirror = Mirror(store, feed.source)
        drafts = Drafts(store, mirror)
        resolver = Resolver()
        registrations = Registrations(store, mirror, resolver)
        declared = Declared(config, store, mirror, drafts, resolver)
        announce = Announce(store, mirror, drafts, config.registry.lease_ttl)
        streams = EndStreams()

        def add_services(server: grpc.aio.Server) -> None:
            server.add_generic_rpc_handlers(all_handlers(store, mirror, registrations))
            providers_service_pb2_grpc.add_ProvidersServiceServicer_to_server(Providers(store, mirror), server)
            instances_service_pb2_grpc.add_InstancesServiceServicer_to_server(Instances(store, mirror), server)
            announce_service_pb2_grpc.add_AnnounceServiceServicer_to_server(announce, server)
            Watch(store, mirror, feed).add_to(server)

        for work, name in ((mirror.run(), "mirror the store"), (drafts.run(), "write drafts")):
            await stack.enter_async_context(background(work, name))
        listener = await stack.enter_async_context(
            listening(
                config.registry.listen or config.registry.address,
                options=INTERNAL_LISTENER,
                add_services=add_services,
                interceptors=[Errors(), streams],
                drain_seconds=_DRAIN_SECONDS,
            )
        )
        stack.callback(streams.stop)
        for work, name in (
            (declared.run(), "follow the YAML"),
            (Discovered(config, store, mirror).run(), "follow what is served"),
            (Handovers(store, mirror).run(), "end handovers"),
            (compacting(store), "compact"),
            (_tell_health(listener, mirror, declared.followed), "tell health"),
        ):
            await stack.enter_async_context(background(work, name))
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await declared.followed.wait()
        yield Registry(listener, mirror)


async def _tell_health(listener: Listener, mirror: Mirror, ready: asyncio.Event) -> None:
    """SERVING while the store is heard, once the providers of the YAML are known; for ever."""
    await ready.wait()
    told = False
    while True:
        if told != (serving := not mirror.stale):
            await listener.set_serving("", *SERVICES, serving=serving)
            told = serving
        await asyncio.sleep(_HEALTH_SECONDS)


async def compacting(store: Store, kept: int = KEPT_REVISIONS, every: float = _COMPACT_SECONDS) -> None:
    """Keep the last revisions, for ever."""
    while True:
        try:
            if (oldest := await store.revision() - kept) > 0:
                await store.compact(oldest)
        except MeshError as error:
            log.warning("the store could not be compacted: %s", error)
        await asyncio.sleep(every)
