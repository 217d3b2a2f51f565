"""Names of every type over a real channel, to a registry in memory."""

from __future__ import annotations

import datetime as dt

import pytest

from stackmesh import errors
from stackmesh.client import Client
from stackmesh.client.structs import EXACT, from_struct
from stackmesh.registry.v1 import resources_pb2
from stackmesh.resources import KINDS
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry

PAYLOADS = {
    "model": {"team": "search"},
    "shield": {"version": "1"},
    "memory_bank": {"vector": {"embedding_model": "minilm", "chunk_size_in_tokens": 512}},
    "agent": {"purpose": "tests"},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.word)


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
async def client(registry):
    async with serving(ScriptedInference(), registry) as address, Client(address, timeout=10) as client:
        yield client


@EVERY_KIND
async def test_a_name_from_beginning_to_end(client, registry, kind):
    names = getattr(client, kind.plural)
    first = await names.register("mine", **{kind.payload: PAYLOADS[kind.word]})
    assert (first.identifier, first.provider_id, first.provider_resource_id) == ("mine", "local", "mine")
    assert await names.get("mine") == first
    assert [resource async for resource in names.list()] == [first]
    moved = await names.update(
        "mine", expected_revision=first.revision, **{f"provider_{kind.word}_id": "theirs"}, provider_id="other"
    )
    assert (moved.provider_id, moved.provider_resource_id) == ("other", "theirs")
    assert getattr(moved, kind.payload) == getattr(first, kind.payload)
    with pytest.raises(errors.Conflict):
        await names.update("mine", expected_revision=first.revision, provider_id="local")
    with pytest.raises(errors.Conflict):
        await names.unregister("mine", expected_revision=first.revision)
    assert await names.unregister("mine", expected_revision=moved.revision) == registry.revision
    with pytest.raises(errors.ResourceNotFound):
        await names.get("mine")


async def test_what_is_not_given_is_not_sent(client, registry):
    await client.models.register("mine")
    await client.models.update("mine", expected_revision=registry.revision)
    registered, updated = registry.calls
    assert not registered.HasField("metadata")
    assert not any(updated.HasField(field) for field in ("metadata", "provider_id", "provider_model_id"))


async def test_an_empty_mapping_takes_the_metadata_away(client):
    model = await client.models.register("mine", metadata={"a": 1})
    model = await client.models.update("mine", expected_revision=model.revision, metadata={})
    assert dict(model.metadata) == {}


@pytest.mark.parametrize("params", [{"vector": {}}, {"key_value": {}}, {"keyword": {}}, {"graph": {}}])
async def test_bank_params_as_in_the_yaml(client, params):
    bank = await client.memory_banks.register("docs", params=params)
    assert bank.params.WhichOneof("kind") in params


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"vectr": {}}, "they have one key, one of vector, key_value, keyword, graph"),
        ({"keyValue": {}}, "they have one key, one of "),
        ({"vector": {}, "graph": {}}, "they have one key"),
        ({}, "they have one key"),
        ({"vector": {"chunk_size_in_tokens": "many"}}, "vector has a value that is not of its key's type"),
        ({"vector": {"chunk_size": 5}}, "vector takes a mapping that may have embedding_model, chunk_size_in_tokens, "),
        ({"vector": 5}, "vector takes a mapping"),
        ({"graph": {"a": 1}}, "graph takes an empty mapping, {}"),
    ],
)
async def test_bad_bank_params_are_refused_before_the_wire(client, registry, params, said):
    with pytest.raises(errors.InvalidField) as caught:
        await client.memory_banks.register("docs", params=params)
    assert caught.value.field == "params"
    assert said in str(caught.value)
    assert registry.calls == []


async def test_bank_params_as_the_message(client):
    params = resources_pb2.MemoryBankParams(graph=resources_pb2.GraphParams())
    assert (await client.memory_banks.register("docs", params=params)).params == params


async def test_metadata_comes_back_as_it_went(client):
    metadata = {
        "ünïcode 🙂": "line\nline\x00",
        "none": None,
        "numbers": [0, -1, EXACT, 0.1, 1e300, 2**80],
        "deep": {"a": [{"b": [True, False]}]},
        "empty": [{}, [], ""],
    }
    model = await client.models.register("mine", metadata=metadata)
    assert from_struct(model.metadata) == metadata


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (EXACT + 1, "more digits"),
        (10**400, "more digits"),
        (float("nan"), "no number"),
        (float("inf"), "no number"),
        (dt.date(2026, 1, 1), "is a date"),
        ({1: "x"}, "quotes"),
    ],
)
async def test_what_would_be_bent_is_refused_with_its_path(client, registry, value, said):
    with pytest.raises(errors.InvalidField, match=said) as caught:
        await client.models.register("mine", metadata={"deep": [value]})
    assert caught.value.field == "metadata.deep[0]"
    assert registry.calls == []


async def test_instances(client, registry):
    registry.start("i-1", "127.0.0.1:5")
    assert [instance.address async for instance in client.instances.list()] == ["127.0.0.1:5"]
    assert (await client.instances.get("i-1")).address == "127.0.0.1:5"
    with pytest.raises(errors.NotFound):
        await client.instances.get("i-2")
