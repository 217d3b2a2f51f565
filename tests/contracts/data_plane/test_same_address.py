"""Health, reflection and Inspect are served where everything else is."""

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stackmesh.inspect.v1 import inspect_service_pb2
from stackmesh.inspect.v1.inspect_service_pb2_grpc import InspectServiceStub
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh

pytestmark = pytest.mark.gateway


async def reflected(mesh: Mesh, **request: str):
    stub = reflection_pb2_grpc.ServerReflectionStub(mesh.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=5)
    (answer,) = [answer async for answer in call]
    return answer


@pytest.mark.parametrize("service", ["", api.SERVICE])
async def test_health(mesh: Mesh, service: str):
    stub = health_pb2_grpc.HealthStub(mesh.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_a_service_nobody_has(mesh: Mesh):
    stub = health_pb2_grpc.HealthStub(mesh.channel)
    call = stub.Check(health_pb2.HealthCheckRequest(service="some.other.v1.Service"), timeout=5)
    assert await call.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
async def test_health_that_cannot_be_parsed_is_the_callers_mistake(mesh: Mesh, method: str):
    call = mesh.channel.unary_stream(method)(b"\xff", timeout=5)
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(aiter(call))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_that_cannot_be_parsed_is_the_callers_mistake(mesh: Mesh):
    call = mesh.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b"\xff"]))
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_reflection_lists_the_services(mesh: Mesh):
    answer = await reflected(mesh, list_services="")
    services = {service.name for service in answer.list_services_response.service}
    assert {api.SERVICE, "stackmesh.inference.v1.InferenceService", "grpc.health.v1.Health"} <= services


async def test_reflection_describes_a_service_and_what_it_needs(mesh: Mesh):
    answer = await reflected(mesh, file_containing_symbol=api.SERVICE)
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert api.FILE in {file.name for file in files}


async def test_inspect_knows_the_api_nobody_told_it_of(mesh: Mesh):
    answer = await InspectServiceStub(mesh.channel).ListMethods(inspect_service_pb2.ListMethodsRequest(), timeout=5)
    paths = {method.path for method in answer.methods}
    assert api.UNARY in paths
    assert api.HIDDEN_UNARY not in paths
