"""What a running instance says when it is asked what a provider serves: the same as it announces, straight from it."""

from contextlib import asynccontextmanager

import pytest

from stackmesh.errors import ProviderNotFound
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import ProviderServiceStub
from stackmesh.transport import internal_channel
from tests.fakes.mesh import mesh_config, running_mesh
from tests.integration.registry.client import call
from tests.ports import free_port
from tests.waiting import until


@asynccontextmanager
async def instance_of(client):
    """A question to the only instance of a mesh, at the address it has announced: what does a provider serve?"""
    [instance] = [instance async for instance in client.instances.list()]
    async with internal_channel(instance.address) as channel:
        stub = ProviderServiceStub(channel)

        async def served(provider_id):
            answer = await call(stub.ListServed, pb.ListServedRequest(provider_id=provider_id))
            return list(answer.provider_resource_ids), answer.problem

        yield served


async def test_it_tells_what_it_serves_now_and_what_is_wrong(tmp_path):
    dead = f"127.0.0.1:{free_port()}"
    providers = [
        {"provider_id": "e", "provider_type": "inline::echo", "config": {"models": ["one"], "loadable": ["big"]}},
        {"provider_id": "v", "provider_type": "remote::vllm", "config": {"url": f"http://{dead}/v1"}},
    ]
    async with running_mesh(mesh_config(tmp_path, providers, ["one"]), serving=["one"]) as client:
        async with instance_of(client) as served:

            async def serves(*names):
                """The instance says so, and the registry has heard the same."""
                known = [list(provider.served) async for provider in client.providers.list()]
                return (await served("e"))[0] == list(names) and known == [sorted(names), []]

            assert await served("e") == (["one"], "")
            await client.models.register("mine", provider_model_id="big")
            await until(lambda: serves("one", "big"))
            await client.models.unregister("mine")
            await until(lambda: serves("one"))
            names, problem = await served("v")
            assert names == []
            assert dead in problem
            with pytest.raises(ProviderNotFound, match="does not host the provider 'nobody'; it hosts: e, v"):
                await served("nobody")
