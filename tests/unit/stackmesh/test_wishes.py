"""What is registered with this process's providers, from whatever the registry sends in whatever way."""

import asyncio

from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2 import EntryKind
from stackmesh.routes import Api, ResourceType
from stackmesh.wishes import Wishes, wanted


def model(identifier, own=None, provider="p", second=0, **fields):
    row = resources_pb2.Model(
        identifier=identifier, provider_id=provider, provider_resource_id=own or identifier, **fields
    )
    row.created_at.FromSeconds(second)
    return pb.Entry(key=f"model/{identifier}", model=row)


def put(entry):
    return pb.Change(entry=entry)


def gone(key):
    return pb.Change(entry=pb.Entry(key=key))


def wishes(*entries):
    made = Wishes(Api.API_INFERENCE, ["p", "q"])
    made.replace(entries, 1)
    return made


async def changed(view):
    async with asyncio.timeout(5):
        return {
            name: wanted and (dict(wanted.metadata) if wanted.HasField("metadata") else {})
            for name, wanted in (await view.changed()).items()
        }


async def nothing_changed(view):
    view.apply([put(model("sentinel"))], 99)
    return await changed(view) == {("p", "sentinel"): {}}


async def test_only_what_its_own_providers_have_accepted_is_wanted():
    shield = resources_pb2.Shield(identifier="s", provider_id="p", provider_resource_id="s")
    pending = resources_pb2.Model(identifier="pending", provider_id="p", pending_reason="not asked yet")
    view = wishes(
        model("mine"),
        model("others", provider="elsewhere"),
        pb.Entry(key="model/pending", model=pending),
        pb.Entry(key="shield/s", shield=shield),
        pb.Entry(key="provider/1/p", provider=resources_pb2.Provider(provider_id="p")),
    )
    assert await changed(view) == {("p", "mine"): {}}


async def test_what_was_only_discovered_is_no_wish_until_somebody_registers_it():
    view = wishes(model("a", source=resources_pb2.SOURCE_DISCOVERED))
    assert await nothing_changed(view)
    view.apply([put(model("a", source=resources_pb2.SOURCE_USER))], 2)
    assert await changed(view) == {("p", "a"): {}}


async def test_what_a_name_stood_for_is_wanted_until_the_handover_ends():
    view = wishes(model("a", "old", metadata={"k": 1}), model("b", "other"))
    assert await changed(view) == {("p", "old"): {"k": 1}, ("p", "other"): {}}
    was = pb.Entry(key="handover/model/a", handover={"model": model("a", "old", metadata={"k": 1}).model})
    view.apply([put(was), put(model("a", "new", provider="q"))], 2)
    assert await changed(view) == {("p", "old"): {"k": 1}, ("q", "new"): {}}
    view.apply([gone("handover/model/a")], 3)
    assert await changed(view) == {("p", "old"): None}


async def test_a_handover_of_another_type_is_no_wish():
    shield = resources_pb2.Shield(identifier="s", provider_id="p", provider_resource_id="s")
    view = wishes(pb.Entry(key="handover/shield/s", handover={"shield": shield}), pb.Entry(key="handover/x/y"))
    assert await nothing_changed(view)


async def test_a_relist_changes_nothing_that_is_as_it_was():
    view = wishes(model("a"), model("b"))
    assert await changed(view) == {("p", "a"): {}, ("p", "b"): {}}
    view.replace([model("b"), model("a")], 2)
    view.apply([put(model("a")), gone("model/never")], 3)
    assert await nothing_changed(view)


async def test_a_relist_tells_what_came_and_went_meanwhile():
    view = wishes(model("a"), model("b"))
    await changed(view)
    view.replace([model("b"), model("c")], 9)
    assert await changed(view) == {("p", "a"): None, ("p", "c"): {}}


async def test_two_identifiers_for_one_name_are_one_wish_until_the_last_is_gone():
    view = wishes(model("a", "own"), model("b", "own"))
    assert await changed(view) == {("p", "own"): {}}
    view.apply([gone("model/a")], 2)
    assert await changed(view) == {("p", "own"): {}}
    view.apply([gone("model/b")], 3)
    assert await changed(view) == {("p", "own"): None}


async def test_the_oldest_registration_says_how():
    young, old = model("a", "own", second=2, metadata={"n": 2}), model("b", "own", second=1, metadata={"n": 1})
    for entries in ([young, old], [old, young]):
        assert await changed(wishes(*entries)) == {("p", "own"): {"n": 1}}
    view = wishes(young, old)
    await changed(view)
    view.apply([gone("model/b")], 2)
    assert await changed(view) == {("p", "own"): {"n": 2}}


async def test_a_registration_that_moves_is_wanted_there_and_no_longer_here():
    view = wishes(model("a", "own"))
    await changed(view)
    view.apply([put(model("a", "own", provider="q"))], 2)
    assert await changed(view) == {("p", "own"): None, ("q", "own"): {}}
    view.apply([put(model("a", "own", provider="elsewhere"))], 3)
    assert await changed(view) == {("q", "own"): None}


async def test_what_came_and_went_before_anybody_looked_is_not_wanted():
    view = wishes(model("a"))
    view.apply([gone("model/a")], 2)
    assert await changed(view) == {("p", "a"): None}


def test_a_bank_is_wanted_with_its_parameters_and_a_shield_with_its_own():
    params = resources_pb2.MemoryBankParams(vector=resources_pb2.VectorParams(embedding_model="e"))
    bank = wanted(resources_pb2.MemoryBank(identifier="b", provider_id="p", provider_resource_id="x", params=params))
    assert (bank.resource_type, bank.memory_bank_params) == (ResourceType.RESOURCE_TYPE_MEMORY_BANK, params)
    shield = resources_pb2.Shield(identifier="s", provider_id="p", provider_resource_id="x")
    shield.params.update({"k": 1})
    assert dict(wanted(shield).metadata) == {"k": 1}


def test_the_filter_names_the_kinds_of_the_api_and_the_providers():
    assert Wishes.filter(Api.API_INFERENCE, ["q", "p"]) == pb.EntryFilter(
        kinds=[EntryKind.ENTRY_KIND_MODEL, EntryKind.ENTRY_KIND_HANDOVER], provider_ids=["p", "q"]
    )
