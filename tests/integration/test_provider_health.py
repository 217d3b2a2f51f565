"""Each backend is probed in the background: `stackmesh get providers` shows what is found, and calls route by it."""

from __future__ import annotations

import asyncio
import sys

import pytest

from stackmesh.client import Client, user
from stackmesh.errors import NotServing
from tests.fakes.mesh import all_serving, mesh_config, running_mesh
from tests.fakes.openai_server import OpenAIServer
from tests.waiting import until


def vllm(provider_id: str, url: str):
    return {"provider_id": provider_id, "provider_type": "remote::vllm", "config": {"url": url}}


async def shown(address: str) -> dict[str, str]:
    """The row of each provider, by its id."""
    command = (sys.executable, "-m", "stackmesh", "get", "providers", "--address", address)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return {line.split()[0]: line for line in out.decode().splitlines()}


async def calls(client: Client, model: str) -> None:
    await client.inference.chat_completion(model_id=model, messages=[user("hi")])


async def test_a_backend_that_dies_and_comes_back(tmp_path):
    async with OpenAIServer("big") as steady, OpenAIServer("small") as server:
        port = server.port
        config = mesh_config(tmp_path, [vllm("steady", steady.url), vllm("shaky", server.url)], ["big", "small"])
        async with running_mesh(config, serving=["big", "small"]) as client:
            rows = await shown(config.gateway.address)
            assert "  ok " in rows["steady"]
            assert "  ok " in rows["shaky"]

            await server.__aexit__()
            await until(lambda: _gone(client, "small"), 30)
            row = (await shown(config.gateway.address))["shaky"]
            assert "unavailable" in row
            assert f"127.0.0.1:{port} cannot be reached" in row
            assert "  ok " in (await shown(config.gateway.address))["steady"]
            with pytest.raises(NotServing, match=f"127.0.0.1:{port}"):
                await calls(client, "small")
            await calls(client, "big")

            async with OpenAIServer("small", port=port):
                await until(lambda: all_serving(client, ["small"]), 30)
                await calls(client, "small")
                assert "  ok " in (await shown(config.gateway.address))["shaky"]


async def _gone(client: Client, model: str) -> bool:
    return not await all_serving(client, [model])
