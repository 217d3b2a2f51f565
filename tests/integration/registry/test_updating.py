"""Changing what is registered: at a revision, as one write."""

import asyncio

import pytest

from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete
from stackmesh.errors import (
    BackendUnreachable,
    Conflict,
    Declared,
    InvalidField,
    NotHosted,
    ProviderNotFound,
    ResourceNotFound,
)
from stackmesh.registry.v1 import resources_pb2 as pb
from tests.fakes.instance import FakeProvider
from tests.integration.registry.client import LLAMA, MEMORY_BANK, registry_on, yaml
from tests.integration.registry.kinds import ALL, IDS, payload, provider_id, providers
from tests.integration.registry.meeting import meeting
from tests.waiting import until

each_kind = pytest.mark.parametrize("kind", ALL, ids=IDS)


@each_kind
async def test_what_is_absent_stays(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a", "b")):
        first = await names.register("mine", provider_id=provider_id(kind, "a"), **payload(kind))
        second = await names.update("mine", expected_revision=first.revision, **payload(kind, 1))
        assert second.revision == first.revision + 1 == await registry.revision()
        assert getattr(second, kind.payload) != getattr(first, kind.payload)
        assert (second.provider_id, second.provider_resource_id) == (first.provider_id, "real")
        assert second.created_at == first.created_at
        assert second.updated_at.ToNanoseconds() > first.updated_at.ToNanoseconds()
        own = f"provider_{kind.word}_id"
        third = await names.update("mine", expected_revision=second.revision, **{own: "other"})
        assert (third.provider_resource_id, getattr(third, kind.payload)) == ("second", getattr(second, kind.payload))
        fourth = await names.update(
            "mine", expected_revision=third.revision, provider_id=provider_id(kind, "b"), **payload(kind, 2)
        )
        assert (fourth.provider_id, fourth.provider_resource_id) == (provider_id(kind, "b"), "real")
        assert await names.get("mine") == fourth


@each_kind
async def test_a_revision_that_has_passed_is_a_conflict(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a")):
        first = await names.register("mine", **payload(kind))
        second = await names.update("mine", expected_revision=first.revision, **payload(kind, 1))
        for change in (names.update, names.unregister):
            for wrong in (first.revision, second.revision + 1):
                with pytest.raises(Conflict, match=f"mine is at revision {second.revision}, not at {wrong}: read"):
                    await change("mine", expected_revision=wrong)
        assert await names.get("mine") == second
        await names.unregister("mine", expected_revision=second.revision)
        with pytest.raises(ResourceNotFound):
            await names.update("mine", expected_revision=second.revision)


@each_kind
async def test_an_update_needs_a_revision_and_good_names(registry, kind):
    names, own = registry.all[kind], f"provider_{kind.word}_id"
    async with registry.instance(providers("a")):
        row = await names.register("mine", **payload(kind))
        for fields, field, match in (
            ({}, "expected_revision", "is required"),
            ({"expected_revision": -1}, "expected_revision", "is negative"),
            ({"expected_revision": row.revision, "provider_id": ""}, "provider_id", "is empty"),
            ({"expected_revision": row.revision, own: "a b"}, own, "may hold"),
        ):
            with pytest.raises(InvalidField, match=match) as raised:
                await names.update("mine", **fields)
            assert raised.value.field == field
        with pytest.raises(InvalidField, match="expected_revision is negative"):
            await names.unregister("mine", expected_revision=-5)
        with pytest.raises(ProviderNotFound):
            await names.update("mine", expected_revision=row.revision, provider_id="nobody")
        with pytest.raises(NotHosted):
            await names.update("mine", expected_revision=row.revision, **{own: "unheard"})
        assert await names.get("mine") == row
        assert await registry.revision() == row.revision


async def test_the_provider_is_asked_about_its_own_business_only(registry):
    async with registry.instance({"a": FakeProvider(LLAMA)}) as instance:
        provider = instance.providers["a"]
        row = await registry.register("llama")
        provider.fails = BackendUnreachable("down")
        row = await registry.update("llama", expected_revision=row.revision, metadata={"k": 1})
        row = await registry.update("llama", expected_revision=row.revision, metadata={})
        assert not row.metadata.fields
        same = await registry.update("llama", expected_revision=row.revision, provider_model_id="llama-8b")
        assert same == row
        with pytest.raises(BackendUnreachable):
            await registry.update("llama", expected_revision=row.revision, provider_model_id="meta/llama")
        assert await registry.get("llama") == row


@pytest.mark.parametrize("kind", [ALL[1], MEMORY_BANK], ids=["shield", "memory_bank"])
async def test_parameters_are_the_providers_business(registry, kind):
    names = registry.all[kind]
    async with registry.instance(providers("a")) as instance:
        row = await names.register("mine", **payload(kind))
        instance.providers[row.provider_id].fails = NotHosted("not with such parameters")
        with pytest.raises(NotHosted, match="not with such parameters"):
            await names.update("mine", expected_revision=row.revision, **payload(kind, 1))
        assert await names.update("mine", expected_revision=row.revision, **payload(kind)) == row


async def test_what_changes_nothing_writes_nothing(registry):
    async with registry.instance({"a": FakeProvider(LLAMA)}):
        row = await registry.register("llama", metadata={"k": 1})
        for same in ({}, {"provider_id": "a"}, {"provider_model_id": "meta/llama"}, {"metadata": {"k": 1}}):
            assert await registry.update("llama", expected_revision=row.revision, **same) == row
        assert await registry.revision() == row.revision


async def test_what_the_yaml_declares_is_changed_there(disk):
    async with disk.registry(yaml("a", models=["model_id: llama"])) as registry:
        async with registry.instance({"a": FakeProvider(LLAMA)}):
            await until(lambda: registry.serving("llama"))
            row = await registry.get("llama")
            with pytest.raises(Declared, match="the model llama is declared in the YAML: change it there"):
                await registry.update("llama", expected_revision=row.revision, metadata={"k": 1})
            assert await registry.get("llama") == row


@each_kind
async def test_until_the_new_is_served_the_name_is_what_it_was(registry, kind):
    """The registry's own word for it; gateway and instances are in tests/integration/test_convergence.py."""
    names, own = registry.all[kind], f"provider_{kind.word}_id"
    async with registry.instance(providers("a")) as instance:
        [provider] = [p for p in instance.providers.values() if p.api == kind.api]
        row = await names.register("mine", **payload(kind))
        report = provider.report(row.provider_id)
        provider.report = lambda *_: report
        report.provider_resource_ids.remove("second")
        await instance.report(row.provider_id)
        updated = await names.update("mine", expected_revision=row.revision, **{own: "other"})
        why = f"calls still go to real at {row.provider_id}, as before the update: "
        for told in (updated, await names.get("mine"), getattr(await names.list(), kind.plural)[0]):
            assert told.provider_resource_id == "second"
            assert told.serving_state == pb.SERVING_STATE_SERVING
            assert told.serving_reason.startswith(why)
        report.provider_resource_ids.append("second")
        await instance.report(row.provider_id)
        assert (await names.get("mine")).serving_reason == ""
        report.provider_resource_ids.remove("second")
        report.provider_resource_ids.remove("real")
        await instance.report(row.provider_id)
        assert (await names.get("mine")).serving_state == pb.SERVING_STATE_NOT_SERVING


async def never_absent(disk, rounds, kind=SqliteStore):
    """An update is one put: who watches sees the name change, and never go."""
    store = kind(disk.path)
    async with registry_on(store) as registry, registry.instance({"a": FakeProvider(LLAMA), "b": FakeProvider(LLAMA)}):
        row = await registry.register("llama", provider_id="a")
        first = row.revision
        for n in range(rounds):
            row = await registry.update("llama", expected_revision=row.revision, provider_id="ab"[(n + 1) % 2])
        last = await store.revision()
        seen = []
        async for commit in store.watch(first):
            seen += [change for change in commit.changes if change.key == "model/llama"]
            if commit.revision >= last:
                break
        assert not [change for change in seen if isinstance(change, Delete)]
        assert len(seen) == rounds + 1


async def test_a_name_that_is_updated_is_never_absent(disk):
    await never_absent(disk, 20)


async def test_the_check_finds_an_update_that_removes_first(disk):
    class InTwoSteps(SqliteStore):
        async def commit(self, ops, *, expect=None):
            if expect and ops[0].key == "model/llama" and expect["model/llama"]:
                await super().commit([Delete("model/llama")], expect=expect)
                expect = {"model/llama": 0}
            return await super().commit(ops, expect=expect)

    with pytest.raises(AssertionError):
        await never_absent(disk, 3, InTwoSteps)


async def one_update_wins(registry, rounds):
    """Of updates that expect the same revision, one happens."""
    async with registry.instance({"a": FakeProvider(LLAMA)}):
        row = await registry.register("llama")
        for n in range(rounds):
            attempts = [
                registry.update("llama", expected_revision=row.revision, metadata={"n": n, "by": by}) for by in range(5)
            ]
            results = await asyncio.gather(*attempts, return_exceptions=True)
            [row] = [result for result in results if isinstance(result, pb.Model)]
            assert all(isinstance(result, Conflict) for result in results if result is not row)
            assert await registry.get("llama") == row


async def test_of_updates_at_once_one_happens(tmp_path):
    async with registry_on(meeting(SqliteStore)(tmp_path / "r.db")) as registry:
        await one_update_wins(registry, 20)


async def test_the_check_finds_updates_that_do_not_compare(tmp_path):
    async with registry_on(meeting(SqliteStore, compares=False)(tmp_path / "r.db")) as registry:
        with pytest.raises((AssertionError, ValueError)):
            await one_update_wins(registry, 20)
