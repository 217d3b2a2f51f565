"""What the registry says is what the plane does: at once, and for as long as the registry cannot be asked."""

import uuid
from pathlib import Path

import grpc
import pytest

from stackmesh.registry.v1 import models_service_pb2
from stackmesh.registry.v1.models_service_pb2_grpc import ModelsServiceStub
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import PAIR, Mesh, channel, register, running, until_answered
from tests.contracts.data_plane.plane import MODEL, PROVIDER, PROVIDER_MODEL, Plane

pytestmark = pytest.mark.gateway


async def test_name_registered_through_the_plane_routes_on_the_next_call(mesh: Mesh):
    for _ in range(10):
        name = f"new-{uuid.uuid4().hex}"
        await mesh.register(name, provider_id=PROVIDER, provider_model_id=PROVIDER_MODEL)
        assert (await mesh.client.unary(api.request(name))).instance_id == "alpha"


async def test_name_registered_elsewhere_routes_on_the_next_call(mesh: Mesh):
    async with channel(mesh.config.registry.address) as registry:
        for _ in range(10):
            name = f"new-{uuid.uuid4().hex}"
            await register(registry, name, provider_id=PROVIDER, provider_model_id=PROVIDER_MODEL)
            assert (await mesh.client.unary(api.request(name))).instance_id == "alpha"


async def test_removed_name_stops_routing(mesh: Mesh):
    name = f"old-{uuid.uuid4().hex}"
    await mesh.register(name, provider_id=PROVIDER, provider_model_id=PROVIDER_MODEL)
    await mesh.client.unary(api.request(name))
    request = models_service_pb2.UnregisterModelRequest(model_id=name)
    await ModelsServiceStub(mesh.channel).UnregisterModel(request, timeout=5)

    async def refused() -> None:
        call = mesh.client.unary(api.request(name))
        if await call.code() is not grpc.StatusCode.NOT_FOUND:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), grpc.aio.Metadata())

    await until_answered(refused)


async def test_errors_of_the_registry_arrive_as_they_are(mesh: Mesh):
    request = models_service_pb2.GetModelRequest(model_id="nobody-has-this")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ModelsServiceStub(mesh.channel).GetModel(request, timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert any(key == "grpc-status-details-bin" for key, _ in caught.value.trailing_metadata())


async def test_without_the_registry_known_names_route_and_unknown_ones_are_unavailable(plane: Plane, tmp_path: Path):
    async with running(plane, tmp_path) as mesh:
        assert mesh.registry is not None
        mesh.registry.kill()
        await mesh.registry.wait()
        for name in (MODEL, PAIR) * 5:
            await mesh.client.unary(api.request(name))
        call = mesh.client.unary(api.request("nobody-has-this"))
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        call = ModelsServiceStub(mesh.channel).ListModels(models_service_pb2.ListModelsRequest(), timeout=5)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
