"""The exact list of methods, and nothing beside it."""

import grpc
import pytest

from stackmesh.provider.v1 import provider_service_pb2
from stackmesh.registry.v1.announce_service_pb2_grpc import AnnounceServiceStub
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import Mesh
from tests.contracts.data_plane.plane import MODEL, PROVIDER

S = api.SERVICE
MALFORMED = {
    "no slash": f"{S}/Unary",
    "double slash": f"//{S}/Unary",
    "double slash within": f"/{S}//Unary",
    "dot segment": f"/./{S}/Unary",
    "dot segment within": f"/{S}/./Unary",
    "parent segment": f"/x/../{S}/Unary",
    "parent segment within": f"/{S}/Hidden/../Unary",
    "query": f"/{S}/Unary?x=1",
    "fragment": f"/{S}/Unary#x",
    "parameter": f"/{S}/Unary;x=1",
    "empty": "",
    "slash": "/",
    "service only": f"/{S}",
    "service and slash": f"/{S}/",
    "trailing slash": f"/{S}/Unary/",
    "trailing space": f"/{S}/Unary ",
    "leading space": f" /{S}/Unary",
    "percent-encoded letter": f"/{S}/%55nary",
    "percent-encoded slash": f"/{S}%2FUnary",
    "lower case": f"/{S}/unary",
    "upper case": f"/{S.upper()}/UNARY",
    "prefix": f"/v1/{S}/Unary",
    "suffix": f"/{S}/UnaryX",
    "absolute": f"http://localhost/{S}/Unary",
    "backslash": f"\\{S}\\Unary",
    "star": "*",
    "very long": f"/{S}/" + "U" * 4000,
}
UNKNOWN = {
    "unknown method": f"/{S}/Nothing",
    "unknown service": "/stackmesh.conformance.v1.OtherService/Unary",
    "unknown package": "/some.other.v1.Service/Method",
    "no route option": api.HIDDEN_UNARY,
    "ProviderService": "/stackmesh.provider.v1.ProviderService/Resolve",
    "AnnounceService": "/stackmesh.registry.v1.AnnounceService/Announce",
    "GetRevision": "/stackmesh.registry.v1.WatchService/GetRevision",
}


async def check_unreachable(mesh: Mesh, method: str) -> None:
    before = mesh.calls()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.client.raw_unary(api.request(MODEL).SerializeToString(), method=method, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await mesh.client.unary(api.request(MODEL))  # the connection is well, and a stray call would be counted by now
    assert mesh.calls() == before + 1


@pytest.mark.gateway
@pytest.mark.parametrize("method", [pytest.param(path, id=name) for name, path in MALFORMED.items()])
async def test_malformed_path_reaches_no_backend(mesh: Mesh, method: str):
    await check_unreachable(mesh, method)


@pytest.mark.gateway
@pytest.mark.parametrize("method", [pytest.param(path, id=name) for name, path in UNKNOWN.items()])
async def test_unknown_method_reaches_no_backend(mesh: Mesh, method: str):
    await check_unreachable(mesh, method)


@pytest.mark.gateway
async def test_providers_cannot_be_asked_from_outside(mesh: Mesh):
    request = provider_service_pb2.ListServedRequest(provider_id=PROVIDER)
    method = "/stackmesh.provider.v1.ProviderService/ListServed"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.client.raw_unary(request.SerializeToString(), method=method)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.gateway
async def test_instances_cannot_be_announced_from_outside(mesh: Mesh):
    call = AnnounceServiceStub(mesh.channel).Announce(timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.gateway
async def test_method_called_in_another_shape_reaches_the_backend_once_or_never(mesh: Mesh):
    """A unary method called as a stream of no messages: no crash, an error, and the plane lives."""
    call = mesh.channel.stream_stream(api.UNARY)(iter([]), timeout=1)
    with pytest.raises(grpc.aio.AioRpcError):
        assert [answer async for answer in call] == []
    await mesh.client.unary(api.request(MODEL))


@pytest.mark.gateway
@pytest.mark.parametrize("shape", ["unary", "client_stream"])
@pytest.mark.parametrize("body", [b"\xff", b"\x3a\x02\xff\xfe", b"\x0a\xff\x01short"], ids=["tag", "utf-8", "length"])
async def test_body_that_is_no_message(mesh: Mesh, shape: str, body: bytes):
    before = mesh.calls()
    if shape == "unary":
        call = mesh.client.raw_unary(body)
    else:
        call = mesh.channel.stream_unary(api.CLIENT_STREAM)(iter([body]), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mesh.calls() == before
