"""A service process: opens its providers, serves them, keeps them registered, makes them serve what is registered.

The same for every API. What an API adds is a table of provider types and the servicer over them:

    service.running(config, Service(Api.API_INFERENCE, KINDS, "stackmesh.inference.v1.InferenceService", add))
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import grpc

from stackmesh import limits, routes
from stackmesh.announcer import Announcer, announced
from stackmesh.config import Config, ConfigError, ServiceConfig
from stackmesh.convergence import Convergence
from stackmesh.hosting import HostedProviders, Hosting
from stackmesh.interceptors import Errors, Routed
from stackmesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from stackmesh.providers import Kinds, check_providers, open_providers
from stackmesh.reflector import Reflector, RegistrySource
from stackmesh.registry.v1.announce_service_pb2 import ServedReport
from stackmesh.resources import api_word
from stackmesh.routes import Api
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import INTERNAL_LISTENER, registry_channel
from stackmesh.wishes import Wishes

LINGER_SECONDS: Final = 0.3
"""How long calls are still taken after the registry was told goodbye: gateways hear of it a moment later."""

FIRST_HELLO_SECONDS: Final = 3.0
"""How long to wait for the registry before serving without it: who hears `ready` wants to call a resource next."""

HEARD_SECONDS: Final = 1.0
"""How long the next question to a provider waits for the registry to have heard the answer to this one."""


@dataclass(frozen=True, slots=True)
class Service:
    """What an API adds."""

    api: Api.ValueType
    kinds: Kinds
    full_name: str
    """Of its gRPC service, for health."""
    add: Callable[[HostedProviders, grpc.aio.Server], None]
    """Adds its servicer."""

    @property
    def word(self) -> str:
        """`inference`"""
        return api_word(self.api)


def check(config: Config, service: Service) -> None:
    """Raise ConfigError for what the process would refuse in the configuration."""
    hosted = config.providers.of(service.api)
    if len(hosted) > limits.PROVIDERS:
        raise ConfigError(
            f"providers.{service.word}: has {len(hosted)} entries; this process hosts them all, and can announce "
            f"{limits.PROVIDERS}"
        )
    check_providers(hosted, service.kinds, service.word)


@asynccontextmanager
async def running(config: Config, service: Service) -> AsyncGenerator[Listener]:
    """The whole process; registered, or trying to be, while the body runs."""
    configs = config.providers.of(service.api)
    types = {provider.provider_id: provider.provider_type for provider in configs}
    async with AsyncExitStack() as stack:
        providers = await stack.enter_async_context(open_providers(configs, service.kinds, service.word))
        hosted = HostedProviders(service.api, types, providers)
        name = instance_id(service.word)
        listener = await stack.enter_async_context(_listening(config, service, hosted, name))
        stack.push_async_callback(asyncio.sleep, LINGER_SECONDS)  # on the way out: between leaving and taking no call
        await hosted.refresh()
        channel = await stack.enter_async_context(registry_channel(config.registry.address))
        announcer = Announcer(channel, name, listener.address, lambda: hosted.reports)
        await stack.enter_async_context(announced(announcer))
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_HELLO_SECONDS):
                await announcer.wait_registered()
        await stack.enter_async_context(converging(hosted, announcer, channel))
        await listener.set_serving("", service.full_name)
        try:
            yield listener
        finally:
            await listener.leave()


@asynccontextmanager
async def converging(
    hosted: HostedProviders, announcer: Announcer, channel: grpc.aio.Channel
) -> AsyncGenerator[Convergence]:
    """While the body runs, providers come to serve what is registered, and the registry hears what they do."""
    provider_ids = [each.provider_id for each in hosted]
    wishes = Wishes(hosted.api, provider_ids)
    source = RegistrySource(channel, Wishes.filter(hosted.api, provider_ids))
    convergence = Convergence(hosted, wishes)

    async def tell(report: ServedReport) -> None:
        convergence.reported(report)
        announcer.tell([report])
        with suppress(TimeoutError):
            async with asyncio.timeout(HEARD_SECONDS):
                await announcer.heard()

    async with (
        background(hosted.keep_fresh(tell), "keep providers fresh"),
        background(convergence.run(), "convergence"),
        background(Reflector(source, wishes).run(), "reflector"),
    ):
        yield convergence


def _listening(
    config: Config, service: Service, hosted: HostedProviders, name: str
) -> AbstractAsyncContextManager[Listener]:
    def add_services(server: grpc.aio.Server) -> None:
        service.add(hosted, server)
        add_ProviderServiceServicer_to_server(Hosting(hosted), server)

    table = routes.load(routes.bundled())
    own: ServiceConfig = getattr(config.services, service.word)
    interceptors = (Errors(), Routed(table, name))
    return listening(own.address, options=INTERNAL_LISTENER, add_services=add_services, interceptors=interceptors)


def instance_id(word: str) -> str:
    """A name no process had before: the API, the host and a random part."""
    host = "".join(c for c in socket.gethostname().lower().split(".")[0] if c.isascii() and (c.isalnum() or c == "-"))
    return f"{word}-{host[:32] or 'host'}-{secrets.token_hex(4)}"
