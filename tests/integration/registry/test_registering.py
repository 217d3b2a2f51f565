"""Registering a model: who is asked, what is compared."""

import pytest

from stackmesh.errors import (
    AmbiguousProvider,
    BackendUnreachable,
    InvalidField,
    NoInstance,
    NotHosted,
    ProviderNotFound,
    ResourceExists,
)
from stackmesh.registry.v1 import (
    resources_pb2 as pb,
)
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, yaml


async def test_only_the_name_is_needed(registry):
    async with registry.instance({"local": FakeProvider(LLAMA)}) as instance:
        model = await registry.register("llama")
        assert (model.provider_id, model.provider_resource_id) == ("local", "llama-8b")
        assert (model.source, model.serving_state, model.serving_reason) == (
            pb.SOURCE_USER,
            pb.SERVING_STATE_SERVING,
            "",
        )
        assert model == await registry.get("llama")
        assert instance.providers["local"].asked == ["llama"]


async def test_the_provider_is_the_one_that_recognises_the_name(registry):
    providers = {"a": FakeProvider(LLAMA), "b": FakeProvider({"qwen": "qwen-7b"}), "c": FakeProvider({})}
    async with registry.instance(providers):
        assert (await registry.register("qwen")).provider_id == "b"
        model = await registry.register("mine", provider_model_id="meta/llama", metadata={"team": "x"})
        assert (model.provider_id, model.provider_resource_id, model.metadata["team"]) == ("a", "llama-8b", "x")


async def test_several_candidates_are_listed_and_one_can_be_chosen(registry):
    providers = {"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA), "c": FakeProvider({})}
    async with registry.instance(providers):
        with pytest.raises(AmbiguousProvider, match="a, b; set provider_id") as raised:
            await registry.register("llama")
        assert raised.value.metadata == {"providers": "a, b"}
        assert (await registry.register("llama", provider_id="b")).provider_id == "b"


async def test_refusals_give_each_providers_reason(registry):
    async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider({"qwen": "q"})}):
        with pytest.raises(NotHosted, match="a: a serves: llama, llama-8b, meta/llama; b: b serves: qwen"):
            await registry.register("gpt")
        with pytest.raises(NotHosted, match=r"^b serves: qwen$"):
            await registry.register("gpt", provider_id="b")


async def test_a_dead_provider_does_not_hide_the_one_that_recognises_the_name(disk):
    async with disk.registry(yaml("dead", "live")) as registry:
        async with registry.instance({"live": FakeProvider(LLAMA)}):
            assert (await registry.register("llama")).provider_id == "live"
            with pytest.raises(NoInstance, match="dead: no instance of the provider dead is running; live: live"):
                await registry.register("gpt")


async def test_without_an_instance_there_is_nobody_to_ask(disk):
    async with disk.registry(yaml("local")) as registry:
        with pytest.raises(NoInstance, match="no instance of the provider local is running"):
            await registry.register("llama")


async def test_without_a_provider_the_remedy_is_named(registry):
    with pytest.raises(ProviderNotFound, match="no inference provider; add one to the YAML"):
        await registry.register("llama")


async def test_an_unknown_provider_names_the_nearest(disk):
    async with disk.registry(yaml("together", "ollama")) as registry:
        with pytest.raises(ProviderNotFound, match="no inference provider is called 'togeter'; there are: together, o"):
            await registry.register("llama", provider_id="togeter")


async def test_another_instance_is_asked_when_one_cannot_be_reached(registry):
    gone, alive = FakeProvider(LLAMA), FakeProvider(LLAMA)
    async with registry.instance({"local": gone}, "a-first") as first, registry.instance({"local": alive}, "b-second"):
        await first.announce(registry.channel, address="127.0.0.1:1")  # nobody listens there
        assert (await registry.register("llama")).provider_resource_id == "llama-8b"
        assert (gone.asked, alive.asked) == ([], ["llama"])


async def test_what_a_provider_says_is_passed_on(registry):
    provider = FakeProvider(LLAMA)
    async with registry.instance({"local": provider}) as instance:
        provider.fails = BackendUnreachable("the backend at http://x is down")
        with pytest.raises(BackendUnreachable, match="http://x is down"):
            await registry.register("llama")
        await instance.announce(registry.channel, address="127.0.0.1:1")
        with pytest.raises(BackendUnreachable, match="the provider local cannot be reached"):
            await registry.register("llama")


async def test_a_name_the_provider_may_not_give_is_refused(registry):
    async with registry.instance({"local": FakeProvider({})}) as instance:
        instance.providers["local"].aliases["x"] = "bad%name"
        with pytest.raises(InvalidField, match="provider_resource_id may hold"):
            await registry.register("x")


async def test_registering_again_is_compared_field_by_field(registry):
    async with registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider({"llama": "other"})}) as instance:
        model = await registry.register("m", provider_id="a", provider_model_id="llama", metadata={"k": 1})
        revision = await registry.revision()
        for same in (
            {},
            {"provider_id": "a"},
            {"provider_model_id": "llama-8b"},
            {"provider_model_id": "meta/llama"},
            {"metadata": {"k": 1}},
            {"provider_id": "a", "provider_model_id": "llama", "metadata": {"k": 1}},
        ):
            assert await registry.register("m", **same) == model
        for other in (
            {"provider_id": "b"},
            {"provider_model_id": "other"},
            {"metadata": {"k": 2}},
            {"metadata": {}},
        ):
            with pytest.raises(ResourceExists, match="m is already registered, with the provider a as llama-8b"):
                await registry.register("m", **other)
        assert await registry.revision() == revision
        assert await registry.get("m") == model
        instance.providers["a"].fails = BackendUnreachable("down")
        for known in ("llama-8b", "llama"):
            assert await registry.register("m", provider_model_id=known) == model
        with pytest.raises(BackendUnreachable):
            await registry.register("m", provider_model_id="meta/llama")
