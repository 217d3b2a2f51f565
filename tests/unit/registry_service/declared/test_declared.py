import asyncio

import pytest

from registry_service import records
from registry_service.declared.declared import Declared
from registry_service.registering.resolve import Resolver
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.config import parse
from stackmesh.errors import BackendUnreachable, NotHosted
from stackmesh.registry.v1 import resources_pb2 as pb
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.unit.registry_service.parts import parts_of

TEXT = """
version: 1
providers:
  inference:
  - {provider_id: p, provider_type: "inline::fake"}
models:
- {model_id: plain}
- {model_id: alias, provider_model_id: other}
- {model_id: pending}
"""


def config(text=TEXT):
    return parse(text, {}, "test.yaml")


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


@pytest.fixture
async def parts(store):
    async with parts_of(store) as parts:
        yield parts


@pytest.fixture
async def instance(parts):
    async with fakes.running({"p": FakeProvider({"plain": "plain", "other": "real"})}) as instance:
        await parts.say(instance)
        yield instance


def made(parts, text=TEXT, **options):
    resolver = Resolver(**options) if options else parts.resolver
    return Declared(config(text), parts.store, parts.mirror, parts.drafts, resolver)


async def models(store):
    rows, _ = await records.read(store, "model/", records.resource)
    return {row.identifier: row for row in rows}


async def test_following_twice_writes_once(parts, store, instance):
    declared = made(parts)
    assert await declared.follow()
    revision = await store.revision()
    rows = await models(store)
    assert {n: r.provider_resource_id for n, r in rows.items()} == {"plain": "plain", "alias": "real", "pending": ""}
    assert rows["pending"].pending_reason == "p serves: other, plain"
    for again in (declared, made(parts)):
        assert await again.follow()
        assert await store.revision() == revision


async def test_an_alias_is_asked_about_once(parts, store, instance):
    declared = made(parts)
    for _ in range(5):
        await declared.follow()
    asked = instance.providers["p"].asked
    assert (asked.count("plain"), asked.count("other"), asked.count("pending")) == (1, 2, 5)


async def test_replicas_at_once_agree(parts, store, instance):
    replicas = [made(parts) for _ in range(6)]
    await asyncio.gather(*(replica.follow() for replica in replicas))
    await asyncio.gather(*(replica.follow() for replica in replicas))
    revision = await store.revision()
    await asyncio.gather(*(replica.follow() for replica in replicas))
    assert await store.revision() == revision
    assert set(await models(store)) == {"plain", "alias", "pending"}


async def test_a_provider_that_cannot_be_asked_changes_nothing(parts, store, instance):
    await made(parts).follow()
    before = await models(store)
    instance.providers["p"].hangs = True
    await made(parts, ask_seconds=0.1).follow()
    after = await models(store)
    assert (after["plain"], after["alias"]) == (before["plain"], before["alias"])


@pytest.mark.parametrize("error", [NotHosted("never heard of it"), BackendUnreachable("down")])
async def test_a_provider_that_does_not_confirm_an_alias_costs_nobody_the_registration(parts, store, instance, error):
    await made(parts).follow()
    before = (await models(store))["alias"]
    assert before.provider_alias == "other"
    instance.providers["p"].fails = error
    for text in (TEXT, TEXT.replace("provider_model_id: other", "provider_model_id: other, metadata: {k: 1}")):
        assert await made(parts, text).follow(), "it asks again"
        after = (await models(store))["alias"]
        assert (after.provider_resource_id, after.pending_reason) == ("real", "")
        assert bool(after.metadata) == ("metadata" in text)
    changed = TEXT.replace("provider_model_id: other", "provider_model_id: another")
    assert await made(parts, changed).follow()
    assert error.message in (await models(store))["alias"].pending_reason, "that was never confirmed"


async def test_an_alias_that_one_of_several_instances_knows_stays(parts, store, instance):
    await made(parts).follow()
    before = await models(store)
    async with fakes.running({"p": FakeProvider({"plain": "plain"})}, instance_id="another") as another:
        assert another.instance_id < instance.instance_id
        await parts.say(another)
        await made(parts).follow()
        assert (await models(store))["alias"] == before["alias"]


async def test_a_users_row_is_left_alone_and_named_in_the_log(parts, store, instance, caplog):
    user = pb.Model(identifier="plain", provider_id="p", provider_resource_id="mine", source=pb.SOURCE_USER)
    revision = await store.commit([Put("model/plain", records.encode(user))])
    declared = made(parts)
    for _ in range(3):
        await declared.follow()
    assert (await models(store))["plain"].revision == revision
    assert [r.message for r in caplog.records].count(
        "plain is declared in the YAML, but a user has registered it: left as it is"
    ) == 1
