"""What becomes of each entry, over a real channel, to a registry in memory."""

from __future__ import annotations

import asyncio

import pytest
from rich.progress import Progress

from stackmesh.cli.backup import Entry
from stackmesh.cli.importing import Import
from stackmesh.client import Client
from stackmesh.client.registrations import bank_params
from stackmesh.client.structs import from_struct, to_struct
from stackmesh.errors import RegistryUnreachable, StoreFull
from stackmesh.registry.v1.resources_pb2 import SOURCE_CONFIG, SOURCE_DISCOVERED, SOURCE_USER, Model
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry
from tests.waiting import until

BANK = KINDS[ResourceType.RESOURCE_TYPE_MEMORY_BANK]
MODEL = KINDS[ResourceType.RESOURCE_TYPE_MODEL]


@pytest.fixture
def registry():
    registry = FakeRegistry()
    registry.start("i", "127.0.0.1:5")
    return registry


@pytest.fixture
async def client(registry):
    async with serving(ScriptedInference(), registry) as address, Client(address, timeout=10) as client:
        yield client


def entry(name, provider_id="local", theirs=None, **metadata):
    return Entry(MODEL, name, provider_id, theirs or name, to_struct("metadata", metadata))


def row(name, source=SOURCE_USER, provider_id="local", **metadata):
    return Model(
        identifier=name,
        provider_id=provider_id,
        provider_resource_id=name,
        source=source,
        metadata=to_struct("m", metadata),
    )


async def imported(client, *entries, replace=False, dry_run=False):
    work = Import(client, entries, replace, dry_run)
    await work.run(Progress(disable=True))
    return [(work.result(i).outcome.value, work.result(i).why) for i in range(len(entries))]


async def test_what_is_not_there_is_created(client, registry):
    assert await imported(client, entry("a", "other", "theirs", team="x"), entry("b")) == [("created", "")] * 2
    made = registry.of("model")[0]
    assert (made.provider_id, made.provider_resource_id, from_struct(made.metadata)) == (
        "other",
        "theirs",
        {"team": "x"},
    )


async def test_what_is_there_already_is_not_even_asked_for(client, registry):
    registry.put(row("a", team="x"))
    registry.put(row("c", SOURCE_CONFIG))
    assert await imported(client, entry("a", team="x"), entry("c"), replace=True) == [("unchanged", "")] * 2
    assert registry.calls == []


async def test_what_differs_stays_unless_it_shall_be_replaced(client, registry):
    registry.put(row("a", team="x"))
    before = registry.of("model")[0].revision
    wanted = entry("a", "other", "theirs")
    why = (
        "provider_id is local, in the file other; provider_model_id is a, in the file theirs; "
        "metadata is not as in the file"
    )
    assert await imported(client, wanted) == [("differs", why)]
    assert registry.of("model")[0].revision == before
    assert await imported(client, wanted, replace=True) == [("replaced", why)]
    made = registry.of("model")[0]
    assert (made.provider_id, made.provider_resource_id, from_struct(made.metadata)) == ("other", "theirs", {})
    assert await imported(client, wanted, replace=True) == [("unchanged", "")]


async def test_what_was_discovered_yields(client, registry):
    registry.put(row("a", SOURCE_DISCOVERED))
    assert await imported(client, entry("a")) == [("created", "")]
    assert registry.of("model")[0].source == SOURCE_USER


async def test_what_the_yaml_declares_is_not_replaced(client, registry):
    registry.put(row("a", SOURCE_CONFIG, provider_id="other"))
    (foreseen,) = await imported(client, entry("a"), replace=True, dry_run=True)
    (done,) = await imported(client, entry("a"), replace=True)
    assert (foreseen[0], done[0]) == ("failed", "failed")
    assert "YAML" in foreseen[1]
    assert "YAML" in done[1]


async def test_one_failure_stops_no_other(client):
    results = await imported(client, entry("unhosted"), entry("a", "nobody"), entry("b"))
    assert [outcome for outcome, _ in results] == ["failed", "failed", "created"]
    assert "nobody knows unhosted" in results[0][1]
    assert "'nobody'" in results[1][1]


async def test_a_dry_run_writes_nothing_and_foresees(client, registry):
    registry.put(row("same"))
    registry.put(row("other", provider_id="other"))
    before = registry.revision
    entries = (entry("new"), entry("same"), entry("other"), entry("x", "nobody"))
    results = await imported(client, *entries, dry_run=True)
    assert [outcome for outcome, _ in results] == ["created", "unchanged", "differs", "failed"]
    results = await imported(client, *entries, dry_run=True, replace=True)
    assert [outcome for outcome, _ in results] == ["created", "unchanged", "replaced", "failed"]
    assert (registry.revision, registry.calls) == (before, [])


def bank(name, model):
    params = bank_params({"vector": {"embedding_model": model, "chunk_size_in_tokens": 8}})
    return Entry(BANK, name, "local", name, params)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (entry("a", big="x" * 20_000), "metadata takes 20"),
        (bank("a", "nobodys"), "the embedding model nobodys is neither registered nor in the file"),
        (bank("a", "refused"), "the embedding model refused is neither"),
        (entry("a", "other"), "no instance of the provider other is running"),
    ],
)
async def test_a_dry_run_foresees_what_the_import_would_fail_with(client, wanted, why):
    results = await imported(client, entry("refused", "nobody"), wanted, dry_run=True)
    assert results[1][0] == "failed"
    assert results[1][1].startswith(why)


async def test_a_dry_run_knows_the_models_that_come_before(client, registry):
    registry.put(row("there"))
    entries = (entry("new"), bank("a", "new"), bank("b", "there"))
    assert await imported(client, *entries, dry_run=True) == [("created", "")] * 3
    assert await imported(client, *entries) == [("created", "")] * 3


async def test_when_the_registry_is_gone_the_rest_is_not_tried(client, registry):
    registry.away = RegistryUnreachable("the store cannot be reached")
    results = await imported(client, *(entry(f"m{i}") for i in range(100)))
    outcomes = [outcome for outcome, _ in results]
    assert set(outcomes) == {"unknown", "not tried"}
    assert outcomes.count("unknown") == len(registry.calls) <= 8
    assert ("unknown", "it may have been written: the store cannot be reached") in results


async def test_a_full_store_has_written_nothing(client, registry):
    registry.away = StoreFull("the store is full")
    results = await imported(client, *(entry(f"m{i}") for i in range(100)))
    assert {outcome for outcome, _ in results} == {"failed", "not tried"}


async def test_an_interrupted_import_says_what_it_does_not_know(client, registry):
    registry.hangs = True
    work = Import(client, [entry(f"m{i}") for i in range(20)], replace=False, dry_run=False)
    task = asyncio.create_task(work.run(Progress(disable=True)))
    await until(lambda: len(registry.calls) == 8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    results = [work.result(i) for i in range(20)]
    assert [result.outcome for result in results] == ["unknown"] * 8 + ["not tried"] * 12
    assert "run it again" in results[0].why
