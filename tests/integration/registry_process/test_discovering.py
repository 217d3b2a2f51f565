"""Models that are registered because they are served, through the service."""

import pytest

from stackmesh.registry.v1 import resources_pb2 as pb
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import Disk
from tests.waiting import until

YAML = "providers: {inference: [{provider_id: p, provider_type: 'inline::fake', auto_register: true}]}"


@pytest.fixture
async def registry(tmp_path):
    async with Disk(tmp_path).registry(YAML) as registry:
        yield registry


async def test_what_an_instance_serves_can_be_called_by_its_own_name(registry):
    assert (await registry.provider("p")).auto_register
    async with registry.instance({"p": FakeProvider({"a": "a", "b": "b"})}) as instance:
        await until(lambda: registry.serving("a"))
        row = await registry.get("a")
        assert (row.source, row.provider_id, row.provider_resource_id) == (pb.SOURCE_DISCOVERED, "p", "a")
        del instance.providers["p"].aliases["a"]
        await instance.report("p")
        assert (await registry.get("a")).serving_state == pb.SERVING_STATE_NOT_SERVING
        instance.providers["p"].aliases["a"] = "a"
        await instance.report("p")
        again = await registry.get("a")
        assert (again.serving_state, again.created_at) == (pb.SERVING_STATE_SERVING, row.created_at)
        assert again.revision == row.revision


async def test_a_user_who_registers_it_has_it(registry):
    async with registry.instance({"p": FakeProvider({"a": "a"})}) as instance:
        await until(lambda: registry.serving("a"))
        mine = await registry.register("a", metadata={"team": "x"})
        assert (mine.source, mine.metadata["team"]) == (pb.SOURCE_USER, "x")
        instance.providers["p"].aliases["b"] = "b"
        await instance.report("p")
        await until(lambda: registry.serving("b"))
        assert await registry.get("a") == mine


async def test_why_something_is_not_served_is_kept_with_the_instance(registry):
    async with registry.instance({"p": FakeProvider({"a": "a"})}, "i") as instance:
        said = instance.providers["p"].report("p")
        said.failures.add(provider_resource_id="big", reason="not enough memory")
        await instance.say(served=said)
        [hosted] = (await registry.instances())["i"].providers
        assert [(f.provider_resource_id, f.reason) for f in hosted.failures] == [("big", "not enough memory")]
