"""What is registered comes to be served, and says why as long as it is not: through the whole mesh."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import gateway.server
import registry_service.server
import services.inference.server
from registry_service.sqlite.store import SqliteStore
from stackmesh.client import Client, user
from stackmesh.config import Config
from stackmesh.errors import MeshError, NotServing
from stackmesh.registry.v1.resources_pb2 import ServingState
from stackmesh.tasks import background
from tests.fakes.mesh import all_serving, mesh_config, running_mesh
from tests.fakes.openai_server import OpenAIServer
from tests.waiting import until

SERVING, NOT_SERVING = ServingState.SERVING_STATE_SERVING, ServingState.SERVING_STATE_NOT_SERVING
WHO = [user("who are you?")]
LIMIT = 20.0


def echo_mesh(folder: Path, **config: object) -> Config:
    echo = {"provider_id": "echo", "provider_type": "inline::echo", "config": {"models": ["one"], **config}}
    return mesh_config(folder, [echo], ["one"])


async def state(client: Client, name: str) -> tuple[int, str]:
    model = await client.models.get(name)
    return model.serving_state, model.serving_reason


async def says(client: Client, name: str) -> str:
    """What the model answers; its error, if it does not."""
    try:
        answer = await client.inference.chat_completion(model_id=name, messages=WHO)
    except MeshError as error:
        return str(error)
    return answer.completion_message.content.items[0].text


async def answers(client: Client, name: str, own: str | None = None) -> None:
    async def met() -> bool:
        return await says(client, name) == (own or name)

    await until(met, LIMIT)


async def served(client: Client) -> list[str]:
    providers = [provider async for provider in client.providers.list()]
    return sorted(name for provider in providers for name in provider.served)


async def test_a_model_is_loaded_when_it_is_registered_and_says_so_until_then(tmp_path):
    async with running_mesh(echo_mesh(tmp_path, loadable=["big"], load_seconds=1.0), serving=["one"]) as client:
        await client.models.register("mine", provider_model_id="big")
        seen = []

        async def serving() -> bool:
            seen.append(await state(client, "mine"))
            return seen[-1][0] == SERVING

        await until(serving, LIMIT)
        assert any(number == NOT_SERVING and "it is being loaded" in reason for number, reason in seen)
        await answers(client, "mine", "big")


async def test_a_model_that_cannot_be_loaded_says_why(tmp_path):
    async with running_mesh(echo_mesh(tmp_path, unloadable={"huge": "no room for 40 GiB"}), serving=["one"]) as client:
        await client.models.register("huge")

        async def explained() -> bool:
            number, reason = await state(client, "huge")
            return number == NOT_SERVING and "no room for 40 GiB" in reason

        await until(explained, LIMIT)
        with pytest.raises(NotServing):
            await client.inference.chat_completion(model_id="huge", messages=WHO)
        assert await says(client, "one") == "one"


async def test_a_model_is_unloaded_when_its_last_name_is_gone(tmp_path):
    async with running_mesh(echo_mesh(tmp_path, loadable=["big"]), serving=["one"]) as client:
        for name in ("mine", "yours"):
            await client.models.register(name, provider_model_id="big")
            await answers(client, name, "big")
        await client.models.unregister("mine")
        assert await says(client, "yours") == "big"
        await client.models.unregister("yours")

        async def unloaded() -> bool:
            return await served(client) == ["one"]

        await until(unloaded, LIMIT)


@asynccontextmanager
async def plane(config: Config):
    """A gateway and a client of it; the other processes come and go."""
    async with gateway.server.running(config), Client(config.gateway.address, timeout=30) as client:
        yield client


async def test_an_instance_that_starts_again_loads_what_is_registered(tmp_path):
    config = echo_mesh(tmp_path, loadable=["big"])
    async with registry_service.server.running(config), plane(config) as client:
        async with services.inference.server.running(config):
            await client.models.register("big")
            await answers(client, "big")
        assert (await state(client, "big"))[0] == NOT_SERVING
        async with services.inference.server.running(config):
            await answers(client, "big")


async def test_a_registry_that_starts_again_costs_nothing_and_is_followed_on(tmp_path):
    config = echo_mesh(tmp_path, loadable=["big", "later"], load_seconds=0.2)
    async with plane(config) as client, services.inference.server.running(config):
        async with registry_service.server.running(config):
            await until(lambda: _registers(client, "big"), LIMIT)
            await answers(client, "big")
        assert await says(client, "big") == "big"
        async with registry_service.server.running(config):
            assert await says(client, "big") == "big"
            await until(lambda: _registers(client, "later"), LIMIT)
            await answers(client, "later")
            assert await served(client) == ["big", "later", "one"]


async def _registers(client: Client, name: str) -> bool:
    try:
        await client.models.register(name)
    except MeshError:
        return False
    return True


async def test_a_model_that_was_pulled_a_moment_ago_answers_the_call_after_its_registration(tmp_path):
    async with OpenAIServer("old") as backend:
        vllm = {"provider_id": "v", "provider_type": "remote::vllm", "config": {"url": backend.url}}
        async with running_mesh(mesh_config(tmp_path, [vllm], ["old"]), serving=["old"]) as client:
            for number in range(5):
                backend.models = [*backend.models, f"pulled-{number}"]
                await client.models.register(f"pulled-{number}")
                await client.inference.chat_completion(model_id=f"pulled-{number}", messages=[user("hi")])


class Forgets(SqliteStore):
    """Keeps nothing of what a name stood for before its update."""

    async def commit(self, ops, *, expect=None):
        return await super().commit([op for op in ops if not op.key.startswith("handover/")], expect=expect)


async def called_through_updates(folder: Path, store: SqliteStore) -> list[str]:
    """What calls of a name said while it was updated to what has to be loaded, and back again and again."""
    config = echo_mesh(folder, loadable=["big", "huge"], load_seconds=0.4)
    async with AsyncExitStack() as stack:
        for process in (
            registry_service.server.running(config, store),
            gateway.server.running(config),
            services.inference.server.running(config),
        ):
            await stack.enter_async_context(process)
        client = await stack.enter_async_context(Client(config.gateway.address, timeout=30))
        await until(lambda: all_serving(client, ["one"]))
        row = await client.models.register("mine", provider_model_id="one")
        said: list[str] = []

        async def call() -> None:
            while True:
                said.append(await says(client, "mine"))

        async with background(call(), "calls"), background(call(), "more calls"):
            for own in ("big", "huge", "one", "huge"):
                row = await client.models.update("mine", expected_revision=row.revision, provider_model_id=own)
                await answers(client, "mine", own)
        return said


async def test_a_name_that_is_updated_answers_all_the_while(tmp_path):
    said = await called_through_updates(tmp_path, SqliteStore(tmp_path / "registry.db"))
    assert set(said) == {"one", "big", "huge"}
    assert len(said) > 100


async def test_the_check_finds_a_registry_that_forgets_what_the_name_was(tmp_path):
    said = await called_through_updates(tmp_path, Forgets(tmp_path / "registry.db"))
    assert any("is registered but not served now" in each for each in said)
