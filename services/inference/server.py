"""The inference process: opens its providers, serves them, and keeps them registered."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import grpc

from services.inference.providers import KINDS
from services.inference.service import InferenceService
from stackmesh import routes
from stackmesh.announcer import Announcer, announced
from stackmesh.config import Config
from stackmesh.hosting import HostedProviders, Hosting
from stackmesh.inference.v1 import inference_service_pb2
from stackmesh.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from stackmesh.interceptors import Errors, Routed
from stackmesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from stackmesh.providers import check_providers, open_providers
from stackmesh.routes import Api
from stackmesh.server import Listener, listening
from stackmesh.tasks import background
from stackmesh.transport import INTERNAL_LISTENER, internal_channel

LINGER_SECONDS: Final = 0.3
"""How long calls are still taken after the registry was told goodbye: gateways hear of it a moment later."""

API: Final = Api.API_INFERENCE
FIRST_HELLO_SECONDS: Final = 3.0
"""How long to wait for the registry before serving without it: who hears `ready` wants to call a model next."""

SERVICE: Final = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name


def check(config: Config) -> None:
    """Raise ConfigError for what this process would refuse in the configuration."""
    check_providers(config.providers.inference, KINDS, "inference")


@asynccontextmanager
async def running(config: Config) -> AsyncGenerator[Listener]:
    """The whole process; registered, or trying to be, while the body runs."""
    configs = config.providers.inference
    types = {provider.provider_id: provider.provider_type for provider in configs}
    async with AsyncExitStack() as stack:
        providers = await stack.enter_async_context(open_providers(configs, KINDS, "inference"))
        hosted = HostedProviders(API, types, providers)
        listener = await stack.enter_async_context(_listening(config, hosted))
        stack.push_async_callback(asyncio.sleep, LINGER_SECONDS)  # on the way out: between leaving and taking no call
        await hosted.refresh()
        channel = await stack.enter_async_context(internal_channel(config.registry.address))
        announcer = Announcer(channel, instance_id(), listener.address, lambda: hosted.reports)
        await stack.enter_async_context(announced(announcer))
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_HELLO_SECONDS):
                await announcer.wait_registered()
        await stack.enter_async_context(background(hosted.keep_fresh(announcer.tell), "keep providers fresh"))
        await listener.set_serving("", SERVICE)
        try:
            yield listener
        finally:
            await listener.leave()


def _listening(config: Config, hosted: HostedProviders) -> AbstractAsyncContextManager[Listener]:
    def add_services(server: grpc.aio.Server) -> None:
        add_InferenceServiceServicer_to_server(InferenceService(hosted), server)
        add_ProviderServiceServicer_to_server(Hosting(hosted), server)

    table = routes.load(routes.bundled())
    address = config.services.inference.address
    interceptors = (Errors(), Routed(table))
    return listening(address, options=INTERNAL_LISTENER, add_services=add_services, interceptors=interceptors)


def instance_id() -> str:
    """A name no process had before: host, API and a random part."""
    host = "".join(c for c in socket.gethostname().lower().split(".")[0] if c.isascii() and (c.isalnum() or c == "-"))
    return f"inference-{host[:32] or 'host'}-{secrets.token_hex(4)}"
