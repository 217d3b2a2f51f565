"""What the YAML declares."""

import asyncio

import pytest

from stackmesh.errors import (
    BackendUnreachable,
    Declared,
    NoInstance,
    NotServing,
    ProviderNotFound,
    ResourceExists,
)
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
)
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LIMIT, LLAMA, yaml
from tests.waiting import until


async def test_providers_follow_the_yaml(disk):
    async with disk.registry(yaml("one", "two")) as registry:
        rows = {p: await registry.provider(p) for p in ("one", "two")}
        assert {p: (r.position, r.source) for p, r in rows.items()} == {
            "one": (0, pb.SOURCE_CONFIG),
            "two": (1, pb.SOURCE_CONFIG),
        }
    async with disk.registry(yaml("two", "three")) as registry:
        assert (await registry.provider("two")).position == 0
        assert (await registry.provider("three")).position == 1
        with pytest.raises(ProviderNotFound):
            await registry.provider("one")
        revision = await registry.revision()
    async with disk.registry(yaml("two", "three")) as registry:
        assert await registry.revision() == revision


async def test_a_provider_that_is_no_longer_declared_stays_while_it_is_hosted(disk):
    async with disk.registry(yaml("one", "two")) as registry, registry.instance({"one": FakeProvider(LLAMA)}):
        pass
    async with disk.registry(yaml("two")) as registry:
        row = await registry.provider("one")
        assert row.source == pb.SOURCE_DISCOVERED
        assert row.position > 1
        disk.clock.now += 20

        async def gone():
            return not await registry.instances()

        await until(gone)
        with pytest.raises(NoInstance, match=r"^no instance of the provider two is running$"):
            await registry.register("llama")
    async with disk.registry(yaml("two")) as registry:
        with pytest.raises(ProviderNotFound):
            await registry.provider("one")


async def test_a_declared_model_is_pending_until_its_provider_answers(disk):
    async with disk.registry(yaml("local", models=["model_id: llama"])) as registry:

        async def pending():
            return await registry.state("llama") == pb.SERVING_STATE_PENDING

        await until(pending)
        model = await registry.get("llama")
        assert model.serving_reason == model.pending_reason == "no instance of the provider local is running"
        with pytest.raises(NotServing, match="llama is declared in the YAML and pending: no instance"):
            await registry.register("llama")
        async with registry.instance({"local": FakeProvider(LLAMA)}):
            await until(lambda: registry.serving("llama"))
            model = await registry.get("llama")
            assert (model.source, model.provider_resource_id, model.pending_reason) == (
                pb.SOURCE_CONFIG,
                "llama-8b",
                "",
            )


async def settled(registry, instance, *reports):
    """The revision once nothing moves any more after a nudge."""
    for provider_id in reports:
        await instance.report(provider_id)
    last, same = -1, 0
    async with asyncio.timeout(LIMIT):
        while same < 10:
            now = await registry.revision()
            last, same = (now, same + 1) if now == last else (now, 0)
            await asyncio.sleep(0.01)
    return last


async def test_an_unchanged_yaml_writes_nothing(disk):
    text = yaml(
        "local", models=["model_id: llama", "model_id: mine, provider_model_id: meta/llama", "model_id: missing"]
    )
    async with fakes.running({"local": FakeProvider(LLAMA)}) as instance:
        async with disk.registry(text) as registry:
            await instance.announce(registry.channel)
            await until(lambda: registry.serving("mine"))
            revision = await settled(registry, instance)
            assert await registry.state("missing") == pb.SERVING_STATE_PENDING
            assert await settled(registry, instance, "local", "local") == revision
        async with disk.registry(text) as registry:
            await instance.announce(registry.channel)
            assert await settled(registry, instance, "local", "local") == revision
            assert "llama" in instance.providers["local"].asked


async def test_models_follow_the_yaml_and_users_rows_do_not(disk):
    async with fakes.running({"local": FakeProvider({**LLAMA, "q": "qwen"})}) as instance:
        first = yaml("local", models=["model_id: a, provider_model_id: llama", "model_id: b, provider_model_id: q"])
        async with disk.registry(first) as registry:
            await instance.announce(registry.channel)
            await until(lambda: registry.serving("a"))
            await until(lambda: registry.serving("b"))
            await registry.register("c", provider_model_id="q", metadata={"by": "user"})
            before = await registry.get("c")
        second = yaml(
            "local",
            models=["model_id: a, provider_model_id: q, metadata: {x: 1}", "model_id: c, provider_model_id: llama"],
        )
        async with disk.registry(second) as registry:
            await instance.announce(registry.channel)

            async def followed():
                model = await registry.get("a")
                return model.provider_resource_id == "qwen" and await registry.state("b") is None

            await until(followed)
            assert (await registry.get("a")).metadata["x"] == 1
            assert await registry.get("c") == before
        async with disk.registry(yaml("local")) as registry:

            async def removed():
                return await registry.state("a") is None

            await until(removed)
            assert await registry.get("c") == before


async def test_a_declared_model_is_removed_in_the_yaml(disk):
    async with disk.registry(yaml("local", models=["model_id: llama", "model_id: pending"])) as registry:
        async with registry.instance({"local": FakeProvider(LLAMA)}):
            await until(lambda: registry.serving("llama"))
            for name in ("llama", "pending"):
                before = await registry.get(name)
                for fields in ({}, {"expected_revision": before.revision}, {"expected_revision": 1}):
                    with pytest.raises(
                        Declared, match=f"the model {name} is declared in the YAML: remove it from the YAML"
                    ):
                        await registry.unregister(name, **fields)
                assert await registry.get(name) == before
            with pytest.raises(ResourceExists, match="change it in the YAML") as raised:
                await registry.register("llama", metadata={"x": 1})
            assert raised.value.metadata == {"resource_type": "model", "source": "config"}


async def test_a_discovered_model_may_be_unregistered(disk):
    text = yaml("local").replace("}", ", auto_register: true}")
    async with disk.registry(text) as registry, registry.instance({"local": FakeProvider(LLAMA)}):
        await until(lambda: registry.serving("llama-8b"))
        assert (await registry.get("llama-8b")).source == pb.SOURCE_DISCOVERED
        assert await registry.unregister("llama-8b")


async def test_a_declared_model_moves_when_its_provider_is_no_longer_there(disk):
    async with fakes.running({"one": FakeProvider(LLAMA), "two": FakeProvider(LLAMA)}) as instance:
        async with disk.registry(yaml("one", models=["model_id: llama"])) as registry:
            two = instance.providers.pop("two")
            await instance.announce(registry.channel)
            await until(lambda: registry.serving("llama"))
            await instance.say(leave={})
        instance.providers = {"two": two}
        async with disk.registry(yaml("two", models=["model_id: llama"])) as registry:
            await instance.announce(registry.channel)

            async def moved():
                return (await registry.get("llama")).provider_id == "two"

            await until(moved)


async def test_what_cannot_be_reached_is_tried_again(disk):
    async with disk.registry(yaml("local", models=["model_id: llama"])) as registry:
        async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
            instance.providers["local"].fails = BackendUnreachable("not yet")
            await instance.report("local")
            await until(lambda: len(instance.providers["local"].asked) > 2)
            assert (await registry.get("llama")).pending_reason == "the provider local cannot tell: not yet"
            instance.providers["local"].fails = None
            await until(lambda: registry.serving("llama"))
