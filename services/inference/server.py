"""The inference process: what this API adds to a service."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final

import grpc

from services.inference.providers import KINDS
from services.inference.service import InferenceService
from stackmesh import service
from stackmesh.config import Config
from stackmesh.hosting import HostedProviders
from stackmesh.inference.v1 import inference_service_pb2
from stackmesh.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server
from stackmesh.routes import Api
from stackmesh.server import Listener


def _add(hosted: HostedProviders, server: grpc.aio.Server) -> None:
    add_InferenceServiceServicer_to_server(InferenceService(hosted), server)


INFERENCE: Final = service.Service(
    Api.API_INFERENCE, KINDS, inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name, _add
)


def check(config: Config) -> None:
    """Raise ConfigError for what this process would refuse in the configuration."""
    service.check(config, INFERENCE)


def running(config: Config) -> AbstractAsyncContextManager[Listener]:
    """The whole process; registered, or trying to be, while the body runs."""
    return service.running(config, INFERENCE)
