"""examples/seeds.yaml as it stands, over four small servers: two of text-generation-inference, Ollama, Together."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.inference.providers import KINDS
from stackmesh.client import Client, text, user
from stackmesh.config import parse
from stackmesh.errors import MeshError, NotHosted, NotServing, ResourceNotFound
from stackmesh.providers import check_providers
from tests.fakes.mesh import mesh_config, running_mesh
from tests.fakes.ollama_server import OllamaServer
from tests.fakes.tgi_server import TGIServer
from tests.fakes.together_server import TogetherServer
from tests.waiting import until

SEEDS = Path(__file__).parents[2] / "examples" / "seeds.yaml"
OWN = {
    "Llama3.1-8B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "Llama3.1-70B-Instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "Llama3.2-3B-Instruct": "llama3.2:3b-instruct-fp16",
    "Llama3.1-405B-Instruct": "meta-llama/Meta-Llama-3.1-405B-Instruct-Turbo",
}
"""What each model of the example is called by the server that has it."""
NOBODYS = "Llama3.3-70B-Instruct"
KEY = "together-key-0123456789"


@dataclass
class Seeds:
    client: Client
    servers: Mapping[str, TGIServer | OllamaServer | TogetherServer]
    """By the name of the model."""
    stop: AsyncExitStack
    """Closing it takes the server of Llama3.1-70B-Instruct away."""


@pytest.fixture
async def seeds(tmp_path: Path) -> AsyncGenerator[Seeds]:
    async with AsyncExitStack() as stack:
        first, ollama = TGIServer(OWN["Llama3.1-8B-Instruct"]), OllamaServer(OWN["Llama3.2-3B-Instruct"])
        second, together = (
            TGIServer(OWN["Llama3.1-70B-Instruct"]),
            TogetherServer(OWN["Llama3.1-405B-Instruct"], key=KEY),
        )
        for server in (first, ollama, together):
            await stack.enter_async_context(server)
        stop = await stack.enter_async_context(AsyncExitStack())
        await stop.enter_async_context(second)
        environment = {
            "TGI_A_URL": first.root,
            "TGI_B_URL": second.root,
            "OLLAMA_URL": ollama.root,
            "TOGETHER_URL": together.root,
            "TOGETHER_API_KEY": KEY,
        }
        elsewhere = mesh_config(tmp_path, [], [])
        config = parse(SEEDS.read_text(encoding="utf-8"), environment, SEEDS.name)
        config = config.model_copy(update={"registry": elsewhere.registry, "gateway": elsewhere.gateway})
        client = await stack.enter_async_context(running_mesh(config, serving=[*OWN]))
        yield Seeds(client, dict(zip(OWN, (first, second, ollama, together), strict=True)), stop)


def test_it_is_valid_without_any_environment() -> None:
    config = parse(SEEDS.read_text(encoding="utf-8"), {}, SEEDS.name)
    assert [*check_providers(config.providers.inference, KINDS, "inference")] == [
        "tgi-a",
        "tgi-b",
        "ollama",
        "together",
    ]
    assert [model.model_id for model in config.models] == [*OWN]


async def test_each_model_answers_by_its_name_from_its_own_server(seeds: Seeds) -> None:
    for name, own in OWN.items():
        answer = await seeds.client.inference.chat_completion(model_id=name, messages=[user(f"say I am {name}")])
        assert answer.completion_message.content.items[0].text == f"I am {name}"
        stream = await seeds.client.inference.stream_chat_completion(model_id=name, messages=[user("say so")])
        assert "".join([chunk.event.text async for chunk in stream]) == "so"
        completion = await seeds.client.inference.completion(model_id=name, content=text("say so"))
        assert completion.content == "so"
        assert [asked.model for asked in seeds.servers[name].asked] == [own] * 3


async def test_asking_for_a_model_that_none_serves_says_what_is_served(seeds: Seeds) -> None:
    with pytest.raises(ResourceNotFound) as caught:
        await seeds.client.inference.chat_completion(model_id=NOBODYS, messages=[user("hi")])
    assert NOBODYS in caught.value.message
    assert all(name in caught.value.message for name in OWN)


async def test_registering_a_model_that_none_serves_says_who_serves_what(seeds: Seeds) -> None:
    message = await refused(seeds, NOBODYS)
    for provider_id, name in zip(("tgi-a", "tgi-b", "ollama", "together"), OWN, strict=True):
        host = re.escape(seeds.servers[name].host)
        assert re.search(f"{provider_id}: {host} [^;]*'{NOBODYS}'; there are: {re.escape(OWN[name])}", message)
    assert f"; there are: {OWN['Llama3.1-8B-Instruct']}" in await refused(seeds, NOBODYS, "tgi-a")


async def refused(seeds: Seeds, name: str, provider_id: str = "") -> str:
    with pytest.raises(NotHosted) as caught:
        await seeds.client.models.register(name, provider_id=provider_id)
    return caught.value.message


async def test_a_server_that_goes_takes_its_own_model_and_no_other(seeds: Seeds) -> None:
    gone = "Llama3.1-70B-Instruct"
    host = seeds.servers[gone].host
    await seeds.stop.aclose()

    async def is_noticed() -> bool:
        try:
            await seeds.client.inference.chat_completion(model_id=gone, messages=[user("hi")])
        except NotServing as error:
            return f"{host} cannot be reached: connection refused" in error.message
        except MeshError:
            return False
        return False

    await until(is_noticed, 30)
    for name in OWN.keys() - {gone}:
        await seeds.client.inference.chat_completion(model_id=name, messages=[user("hi")])
