"""What is said of a name that is taken away."""

from __future__ import annotations

import asyncio

from stackmesh.registry.v1.resources_pb2 import SOURCE_DISCOVERED, SOURCE_USER, Model
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry
from tests.fakes.up import stackmesh


async def test_what_was_discovered_comes_back():
    registry = FakeRegistry()
    registry.put(Model(identifier="mine", provider_id="local", source=SOURCE_USER))
    registry.put(Model(identifier="found", provider_id="local", source=SOURCE_DISCOVERED))
    async with serving(ScriptedInference(), registry) as address:
        said = [
            await asyncio.to_thread(stackmesh, "unregister", "model", name, "--address", address)
            for name in ("mine", "found")
        ]
    assert [done.returncode for done in said] == [0, 0]
    assert said[0].stderr == ""
    assert said[1].stderr.startswith("note: found was discovered: within half a minute it is there again, as long as ")
