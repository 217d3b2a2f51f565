"""The methods the gateway answers itself: Inspect and reflection. Health is the listener's.

They bring their errors decided, so that the data plane has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from gateway.inspect import InspectService
from stackmesh.inspect.v1.inspect_service_pb2_grpc import add_InspectServiceServicer_to_server
from stackmesh.interceptors import Decided, Errors
from stackmesh.routes import Method, descriptors

# The type stubs know the synchronous servicer only.
_ReflectionServicer: Any = cast("Any", reflection).aio.ReflectionServicer
_add_reflection: Any = cast("Any", reflection_pb2_grpc).add_ServerReflectionServicer_to_server


def add_inspect(service: InspectService, server: grpc.aio.Server) -> None:
    """Inspect, its errors decided."""
    add_InspectServiceServicer_to_server(service, cast("grpc.aio.Server", Decided(server, Errors())))


def add_reflection(methods: Iterable[Method], descriptor_set: bytes, server: grpc.aio.Server) -> None:
    """Reflection of the services that can be reached here, and of health."""
    names = {method.service for method in methods} | {health.SERVICE_NAME, reflection.SERVICE_NAME}
    _add_reflection(_ReflectionServicer(names, pool=_pool(descriptor_set)), Decided(server, Errors()))


def _pool(descriptor_set: bytes) -> DescriptorPool:
    pool = descriptors(descriptor_set)
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    return pool
