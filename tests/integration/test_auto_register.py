"""A real service whose models register themselves: what its backend serves can be called, with nothing else to do."""

import asyncio

import pytest

from stackmesh.errors import NotServing, ResourceNotFound
from stackmesh.registry.v1 import resources_pb2 as pb
from tests.fakes.openai_server import OpenAIServer
from tests.faults.mesh import callable_, meshed, say
from tests.waiting import until

SECONDS = 30.0

TIDY = (
    "-c",
    """
import sys
from registry_service import __main__ as registry, records
from registry_service.declared.discovered import Discovered
from registry_service.store import Delete
from stackmesh.process import run

ops = Discovered._ops

def tidy(self, kind, known):
    yield from ops(self, kind, known)
    served = {name for provider in known.providers(kind.api) for name in provider.served}
    for name in known.resources(kind).keys() - served:
        yield Delete(records.resource_key(kind, name))

Discovered._ops = tidy
sys.exit(run("registry_service", "", registry.main, registry.check))
""",
)
"""A planted bug: a registry that unregisters what is not served any more."""


async def appears(client, name):
    async def met():
        return name in [model.identifier async for model in client.models.list()]

    await until(met, SECONDS)


async def turns(client, name, wanted):
    """Comes to be served, or not to be; it is there all the time."""

    async def met():
        return (await client.models.get(name)).serving_state == wanted

    await until(met, SECONDS)


async def is_refused(client, name):
    """Whether the gateway, which may hear of it a little later, says that it is not served."""
    try:
        await say(client, name)
    except NotServing:
        return True
    return False


def kept(row):
    """What of a registration has to stay as it is."""
    return row.source, row.provider_id, row.provider_resource_id, row.revision, row.created_at


async def what_is_served_registers_itself(folder, program=None):
    """Processes all of it: a registry, a gateway, and a service of a backend that loses a model, and gets it back."""
    async with OpenAIServer("big", "small") as backend:
        vllm = {"provider_id": "v", "provider_type": "remote::vllm", "config": {"url": backend.url}}
        provider = {**vllm, "auto_register": True}
        store = f"sqlite:///{folder}/r.db"
        async with meshed(folder, store, registries=1, gateways=1, provider=provider, models=()) as mesh:
            mesh.registries[0].program = program or mesh.registries[0].program
            async with asyncio.TaskGroup() as group:
                for member in mesh.members:
                    group.create_task(member.start())
            client = mesh.clients[0]
            for name in ("big", "small"):
                await appears(client, name)
                assert await say(client, name)
                assert backend.asked[-1].model == name
            before = await client.models.get("big")
            assert kept(before)[:3] == (pb.SOURCE_DISCOVERED, "v", "big")

            backend.models = ["small", "pulled"]
            await client.models.register("mine", provider_model_id="pulled")  # so that it is asked at once
            await appears(client, "pulled")
            await turns(client, "big", pb.SERVING_STATE_NOT_SERVING)
            await until(lambda: is_refused(client, "big"), SECONDS)
            for name, own in {"small": "small", "pulled": "pulled", "mine": "pulled"}.items():
                assert await say(client, name)
                assert backend.asked[-1].model == own
            assert kept(await client.models.get("big")) == kept(before)

            backend.models = ["big", "small", "pulled"]  # and now it is asked when it is time
            await turns(client, "big", pb.SERVING_STATE_SERVING)
            await until(lambda: callable_(client, "big"), SECONDS)
            assert kept(await client.models.get("big")) == kept(before)


@pytest.mark.timeout(120)
async def test_what_is_served_registers_itself(tmp_path):
    await what_is_served_registers_itself(tmp_path)


@pytest.mark.timeout(120)
async def test_that_check_finds_a_registry_that_unregisters_what_is_not_served(tmp_path):
    with pytest.raises((AssertionError, ResourceNotFound)):
        await what_is_served_registers_itself(tmp_path, TIDY)
