"""Where a call goes: by the body's field, by a header, by its API; and which answer a name gets that goes nowhere."""

import uuid

import grpc
import pytest

from stackmesh.errors import InvalidArgument, NotFound, ResourceNotFound, from_rpc_error
from stackmesh.headers import PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, ROUTE, SERVED_BY
from tests.contracts.data_plane import conformance as api
from tests.contracts.data_plane.mesh import PAIR, Mesh, called
from tests.contracts.data_plane.plane import MODEL, PROVIDER, PROVIDER_MODEL

pytestmark = pytest.mark.gateway


async def failed(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("shape", api.SHAPES)
async def test_every_shape_is_routed_by_the_body(mesh: Mesh, shape: str):
    call_id, metadata = called()
    message = api.request(MODEL, messages=1)
    call = mesh.client.start(shape, message, metadata=metadata)
    assert await api.ended(call) is grpc.StatusCode.OK
    seen = await mesh.seen(call_id)
    assert seen.values(PROVIDER_ID) == [PROVIDER]
    assert seen.values(PROVIDER_RESOURCE_ID) == [PROVIDER_MODEL]
    assert seen.values(RESOURCE) == [MODEL]


async def test_method_routed_by_api_goes_to_the_default_provider(mesh: Mesh):
    call_id, metadata = called()
    answer = await mesh.client.unary(api.request(), method=api.DEFAULT_UNARY, metadata=metadata)
    assert answer.instance_id == "alpha"
    seen = await mesh.seen(call_id)
    assert seen.values(PROVIDER_ID) == [PROVIDER]
    assert seen.values(RESOURCE) in ([], [""])


@pytest.mark.parametrize("shape", api.SHAPES)
async def test_unknown_name(mesh: Mesh, shape: str):
    before = mesh.calls()
    message = api.request("nobody-has-this", messages=1)
    call = mesh.client.start(shape, message)
    assert await api.ended(call) is grpc.StatusCode.NOT_FOUND
    assert mesh.calls() == before


async def test_unknown_name_names_what_is_served(mesh: Mesh):
    error = from_rpc_error(await failed(mesh.client.unary(api.request("conformence"))))
    assert isinstance(error, ResourceNotFound)
    assert MODEL in error.message


@pytest.mark.parametrize("name", ["", "x" * 10_240, "a b", "../etc/passwd", "a\nb", "ünïcode", "-dash", "%41"])
async def test_impossible_name(mesh: Mesh, name: str):
    before = mesh.calls()
    error = from_rpc_error(await failed(mesh.client.unary(api.request(name))))
    assert isinstance(error, InvalidArgument | NotFound)
    assert len(error.message) < 2000
    assert mesh.calls() == before


async def test_client_stream_without_a_message(mesh: Mesh):
    error = await failed(mesh.client.client_stream(iter([])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_route_header_routes(mesh: Mesh):
    call_id, metadata = called((ROUTE, f"model={MODEL}"))
    assert (await mesh.client.unary(api.request(MODEL), metadata=metadata)).instance_id == "alpha"
    assert (await mesh.seen(call_id)).values(RESOURCE) == [MODEL]


async def test_route_header_routes_before_the_first_message(mesh: Mesh):
    """A stream is open at its backend before the client has written anything."""
    call_id, metadata = called((ROUTE, f"model={MODEL}"))
    call = mesh.client.client_stream(metadata=metadata)
    await mesh.seen(call_id)
    await call.write(api.request(MODEL))
    await call.done_writing()
    assert (await call).received == 1


async def test_route_header_is_percent_decoded_once(mesh: Mesh):
    name = f"odd/{uuid.uuid4().hex}:v1+x@y"
    await mesh.register(name, provider_id=PROVIDER, provider_model_id=PROVIDER_MODEL)
    call_id, metadata = called((ROUTE, "model=" + name.replace("/", "%2F").replace("+", "%2B").replace("@", "%40")))
    await mesh.client.unary(api.request(name), metadata=metadata)
    assert (await mesh.seen(call_id)).values(RESOURCE) == [name]
    error = await failed(
        mesh.client.unary(api.request(name), metadata=((ROUTE, "model=" + name.replace("/", "%252F")),))
    )
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


async def test_route_header_that_disagrees_with_the_body(mesh: Mesh):
    error = await failed(mesh.client.unary(api.request(PAIR), metadata=((ROUTE, f"model={MODEL}"),)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("value", ["", "model", "model=", "shield=x", f"model={MODEL}&model={PAIR}", "model=%zz", "=x"])
async def test_route_header_that_is_no_route(mesh: Mesh, value: str):
    before = mesh.calls()
    error = await failed(mesh.client.unary(api.request(MODEL), metadata=((ROUTE, value),)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert mesh.calls() == before


async def test_two_route_headers_that_differ(mesh: Mesh):
    metadata = ((ROUTE, f"model={MODEL}"), (ROUTE, f"model={PAIR}"))
    assert (
        await failed(mesh.client.unary(api.request(MODEL), metadata=metadata))
    ).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_balanced_between_instances(mesh: Mesh):
    import asyncio

    before = len(mesh.alpha.seen), len(mesh.beta.seen)
    slow = api.request(PAIR, delay_ms=300)
    await asyncio.gather(*(mesh.client.unary(slow) for _ in range(20)))
    share = len(mesh.alpha.seen) - before[0], len(mesh.beta.seen) - before[1]
    assert sum(share) == 20
    assert min(share) >= 6


async def test_answer_says_who_served_it(mesh: Mesh):
    call = mesh.client.unary(api.request(MODEL))
    assert (await call.trailing_metadata()).get_all(SERVED_BY) == [(await call).instance_id]
