"""Every type of resource is registered alike."""

import pytest

from stackmesh.errors import AmbiguousProvider, NotHosted, ResourceExists, ResourceNotFound
from stackmesh.registry.v1 import resources_pb2 as pb
from tests.integration.registry.client import MEMORY_BANK
from tests.integration.registry.kinds import ALL, IDS, payload, provider_id, providers

pytestmark = pytest.mark.parametrize("kind", ALL, ids=IDS)


async def test_a_name_is_registered_found_listed_and_removed(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a")) as instance:
        row = await names.register("mine", **payload(kind))
        assert (row.identifier, row.provider_id, row.provider_resource_id) == ("mine", provider_id(kind, "a"), "real")
        assert (row.source, row.serving_state, row.serving_reason) == (pb.SOURCE_USER, pb.SERVING_STATE_SERVING, "")
        assert row.revision == await registry.revision()
        assert row.created_at == row.updated_at
        assert await names.get("mine") == row
        assert getattr(await names.list(), kind.plural) == [row]
        assert await names.register("mine", **payload(kind)) == row
        assert await names.register("mine", provider_id=row.provider_id, **payload(kind)) == row
        with pytest.raises(ResourceExists, match="update it, or unregister it first"):
            await names.register("mine", **payload(kind, 1))
        asked = instance.providers[row.provider_id].requests
        assert {question.resource_type for question in asked} == {kind.resource_type}
        assert await names.unregister("mine") == await registry.revision()
        with pytest.raises(ResourceNotFound, match=f"no {kind.words} is called mine; there are none") as raised:
            await names.get("mine")
        assert raised.value.metadata == {"resource_type": kind.word}


async def test_the_provider_sees_what_it_shall_host(registry, kind):
    async with registry.instance(providers("a")) as instance:
        row = await registry.all[kind].register("mine", **payload(kind, 1))
        [question] = instance.providers[provider_id(kind, "a")].requests
        seen = question.memory_bank_params if kind is MEMORY_BANK else question.metadata
        assert seen == getattr(row, kind.payload)
        assert seen.ByteSize() > 0


async def test_a_name_is_unique_within_its_type_only(registry, kind):
    async with registry.instance(providers("a")):
        for each in ALL:
            await registry.all[each].register("mine", **payload(each))
        await registry.all[kind].unregister("mine")
        for each in ALL:
            assert await registry.all[each].names() == ([] if each is kind else ["mine"])
        keys = [entry.key for entry in (await registry.entries()).entries if entry.key.endswith("/mine")]
        assert keys == sorted(f"{each.word}/mine" for each in ALL if each is not kind)


async def test_two_candidates_are_named_and_one_can_be_chosen(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a", "b")):
        revision, ids = await registry.revision(), [provider_id(kind, i) for i in "ab"]
        with pytest.raises(AmbiguousProvider, match=f"recognise mine: {', '.join(ids)}; set provider_id"):
            await names.register("mine", **payload(kind))
        assert await registry.revision() == revision
        row = await names.register("mine", provider_id=ids[1], **payload(kind))
        assert row.provider_id == ids[1]


async def test_what_is_not_hosted_any_more_says_why(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a")) as instance:
        await names.register("mine", **payload(kind))
        with pytest.raises(NotHosted, match=f"^{provider_id(kind, 'a')} serves: alias, mine, other, real$"):
            await names.register("unheard", **payload(kind))
        await instance.say(leave={})
        [listed] = getattr(await names.list(), kind.plural)
        for row in (await names.get("mine"), listed):
            assert row.serving_state == pb.SERVING_STATE_NOT_SERVING
            assert row.serving_reason.startswith(f"no instance of the provider {row.provider_id} is running")


async def test_a_list_is_paged(registry, kind):
    names, wanted = registry.all[kind], [f"n{n}" for n in range(5)]
    async with registry.instance(providers("a", aliases={name: name for name in wanted})):
        for name in reversed(wanted):
            await names.register(name, **payload(kind))
        seen, token = [], ""
        while True:
            page = await names.list(page_size=2, page_token=token)
            seen += [row.identifier for row in getattr(page, kind.plural)]
            if not (token := page.next_page_token):
                break
        assert seen == wanted
