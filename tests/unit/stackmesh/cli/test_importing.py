"""What becomes of each entry, over a real channel, to a registry in memory."""

from __future__ import annotations

import asyncio

import pytest
from rich.progress import Progress

from stackmesh.cli.backup import Entry
from stackmesh.cli.importing import Import
from stackmesh.client import Client
from stackmesh.client.structs import from_struct, to_struct
from stackmesh.errors import RegistryUnreachable
from stackmesh.registry.v1.resources_pb2 import SOURCE_CONFIG, SOURCE_DISCOVERED, SOURCE_USER, Model
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry
from tests.waiting import until

MODEL = KINDS[ResourceType.RESOURCE_TYPE_MODEL]


@pytest.fixture
def registry():
    return FakeRegistry()


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


async def test_when_the_registry_is_gone_the_rest_is_not_tried(client, registry):
    registry.away = RegistryUnreachable("the store cannot be reached")
    results = await imported(client, *(entry(f"m{i}") for i in range(100)))
    outcomes = [outcome for outcome, _ in results]
    assert set(outcomes) == {"failed", "not tried"}
    assert outcomes.count("failed") == len(registry.calls) <= 8


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
