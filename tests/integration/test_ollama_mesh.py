"""Models of an Ollama server come to run because they are registered, and run again when they are gone."""

from __future__ import annotations

from typing import Any

from services.inference import texts
from stackmesh.client import Client, user
from stackmesh.errors import NotServing
from tests.fakes.mesh import all_serving, mesh_config, running_mesh
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.ollama_words import MODEL
from tests.waiting import until

DESCRIPTOR = "Llama3.2-1B-Instruct"


def ollama(server: OllamaServer, **config: Any) -> dict[str, Any]:
    return {"provider_id": "local", "provider_type": "remote::ollama", "config": {"url": server.url, **config}}


async def said(client: Client, model: str) -> str:
    answer = await client.inference.chat_completion(model_id=model, messages=[user("say well")])
    return texts.plain(answer.completion_message.content)


def loads(server: OllamaServer, name: str) -> int:
    return sum(r.body["model"] == name and "prompt" not in r.body for r in server.received("/api/generate"))


async def test_what_is_registered_is_pulled_loaded_and_loaded_again(tmp_path):
    async with OllamaServer() as server:
        server.expire(MODEL)
        server.library = ["qwen3:0.6b"]
        names = [DESCRIPTOR, "qwen3:0.6b"]
        config = mesh_config(tmp_path, [ollama(server, pull=True, keep_alive="1s")], names)
        async with running_mesh(config, serving=names) as client:
            assert set(server.running) == {MODEL, "qwen3:0.6b"}
            assert [await said(client, name) for name in names] == ["well", "well"]
            before = loads(server, MODEL)
            server.expire(MODEL)
            await until(lambda: loads(server, MODEL) > before, 30)
            await until(lambda: all_serving(client, names), 30)
            assert await said(client, DESCRIPTOR) == "well"


async def test_what_stops_running_is_not_served_and_says_how_to_run_it(tmp_path):
    async with OllamaServer(MODEL, "other:1b") as server:
        config = mesh_config(tmp_path, [ollama(server)], [DESCRIPTOR])
        async with running_mesh(config, serving=[DESCRIPTOR]) as client:
            assert await said(client, DESCRIPTOR) == "well"
            server.expire(MODEL)
            # Not called meanwhile: a call that comes before it is missed has Ollama load it.
            await until(lambda: _gone(client, DESCRIPTOR), 30)
            await until(lambda: _is_refused(client, DESCRIPTOR, f"does not run {MODEL}: run it there (ollama run"), 30)
            assert loads(server, MODEL) == 0
            server.running[MODEL] = None
            await until(lambda: all_serving(client, [DESCRIPTOR]), 30)
            assert await said(client, DESCRIPTOR) == "well"


async def _gone(client: Client, model: str) -> bool:
    return not await all_serving(client, [model])


async def _is_refused(client: Client, model: str, reason: str) -> bool:
    try:
        await said(client, model)
    except NotServing as error:
        return reason in error.message
    return False
