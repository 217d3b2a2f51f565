"""The registry, put together: store, services, and what runs beside them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import grpc

from registry_service import sqlite_file
from registry_service.announce import Announce
from registry_service.declared import Declared
from registry_service.models import Models
from registry_service.providers import Providers
from registry_service.registrations import Registrations
from registry_service.resolve import Resolver
from registry_service.sqlite import SqliteStore
from registry_service.stopping import EndStreams
from registry_service.store import Store
from registry_service.watch import Watch
from stackmesh.config import Config
from stackmesh.errors import Unavailable
from stackmesh.interceptors import Errors
from stackmesh.registry.v1 import (
    announce_service_pb2_grpc,
    models_service_pb2_grpc,
    providers_service_pb2_grpc,
    watch_service_pb2_grpc,
)
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import INTERNAL_LISTENER

log = logging.getLogger(__name__)

SERVICES: Final = tuple(f"stackmesh.registry.v1.{name}Service" for name in ("Models", "Providers", "Announce", "Watch"))
KEPT_REVISIONS: Final = 10_000
"""How far a watcher may fall behind before it has to list again."""
_COMPACT_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 10.0  # the longest call asks instances, each for at most 5 s


@asynccontextmanager
async def running(config: Config, store: Store | None = None) -> AsyncGenerator[Listener]:
    """The registry answers while the body runs. `store` replaces the configured one. Raises StartError."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store or open_store(config.registry.store))
        resolver = Resolver(store)
        declared = Declared(config, store, resolver)
        await declared.follow_providers()
        streams = EndStreams()

        def add_services(server: grpc.aio.Server) -> None:
            registrations = Registrations(store, resolver)
            announce = Announce(store, config.registry.lease_ttl, declared.look_again)
            models_service_pb2_grpc.add_ModelsServiceServicer_to_server(Models(store, registrations), server)
            providers_service_pb2_grpc.add_ProvidersServiceServicer_to_server(Providers(store), server)
            announce_service_pb2_grpc.add_AnnounceServiceServicer_to_server(announce, server)
            watch_service_pb2_grpc.add_WatchServiceServicer_to_server(Watch(store), server)

        listener = await stack.enter_async_context(
            listening(
                config.registry.address,
                options=INTERNAL_LISTENER,
                add_services=add_services,
                interceptors=[Errors(), streams],
                drain_seconds=_DRAIN_SECONDS,
            )
        )
        stack.callback(streams.stop)
        await stack.enter_async_context(background(declared.run(), "declared"))
        await stack.enter_async_context(background(compacting(store), "compaction"))
        await listener.set_serving("", *SERVICES)
        yield listener


def open_store(url: str) -> Store:
    """The store at a URL, still closed."""
    return SqliteStore(sqlite_file.path_of(url))


async def compacting(store: Store, kept: int = KEPT_REVISIONS, every: float = _COMPACT_SECONDS) -> None:
    """Keep the last revisions, for ever."""
    while True:
        try:
            if (oldest := await store.revision() - kept) > 0:
                await store.compact(oldest)
        except Unavailable as error:
            log.warning("the store could not be compacted: %s", error)
        await asyncio.sleep(every)
