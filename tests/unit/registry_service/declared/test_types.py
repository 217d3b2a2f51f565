"""Everything the YAML may declare, and what one thing waits for."""

import asyncio

import pytest

from registry_service import records
from registry_service.declared.declared import Declared
from registry_service.registering.resolve import Resolver
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from stackmesh.config import parse
from stackmesh.errors import BackendUnreachable, NotHosted, RegistryUnreachable
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS
from stackmesh.routes import Api
from stackmesh.tasks import background
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.unit.registry_service.parts import parts_of
from tests.waiting import until

PROVIDERS = """
version: 1
providers:
  inference: [{provider_id: inference, provider_type: "inline::fake"}]
  safety: [{provider_id: safety, provider_type: "inline::fake", auto_register: true}]
  memory: [{provider_id: memory, provider_type: "inline::fake"}]
  agents: [{provider_id: agents, provider_type: "inline::fake"}]
"""
TEXT = (
    PROVIDERS
    + """
models: [{model_id: embedder}]
shields: [{shield_id: guard, params: {level: 2}}]
memory_banks:
- {memory_bank_id: docs, params: {vector: {embedding_model: embedder, chunk_size_in_tokens: 512}}}
- {memory_bank_id: kv, params: {key_value: {}}}
agents: [{agent_id: helper, provider_agent_id: alias}]
"""
)
KEYS = ["agent/helper", "memory_bank/docs", "memory_bank/kv", "model/embedder", "shield/guard"]
NAMES = {name: name for name in ("embedder", "guard", "docs", "kv", "helper")} | {"alias": "helper"}


class Fragile(SqliteStore):
    unreachable = False

    async def revision(self):
        if self.unreachable:
            raise RegistryUnreachable("no route to the store")
        return await super().revision()


@pytest.fixture
async def store(tmp_path):
    async with Fragile(tmp_path / "r.db", checkpoint_seconds=0.05) as store:
        yield store


@pytest.fixture
async def parts(store):
    async with parts_of(store) as parts:
        yield parts


@pytest.fixture
async def instance():
    apis = {api: f"{Api.Name(api)[4:].lower()}" for api in Api.values() if api}
    async with fakes.running({word: FakeProvider(NAMES, api=api) for api, word in apis.items()}) as instance:
        yield instance


def declared(parts, text=TEXT, **options):
    config = parse(text, {}, "test.yaml")
    return Declared(config, parts.store, parts.mirror, parts.drafts, Resolver(**options))


async def rows(parts):
    known = await parts.known()
    return {records.key_of(row): row for kind in KINDS.values() for row in known.resources(kind).values()}


async def pending(parts):
    return {key: row.pending_reason for key, row in (await rows(parts)).items() if row.pending_reason}


async def test_every_section_is_registered_once(parts, store, instance):
    await parts.say(instance)
    assert not await declared(parts).follow()
    found = await rows(parts)
    assert sorted(found) == KEYS
    assert {row.source for row in found.values()} == {pb.SOURCE_CONFIG}
    assert found["agent/helper"].provider_resource_id == "helper"
    assert found["shield/guard"].params["level"] == 2
    assert found["memory_bank/docs"].params.vector.embedding_model == "embedder"
    revision = await store.revision()
    assert not await declared(parts).follow()
    assert await store.revision() == revision


async def test_what_is_no_longer_declared_goes_whatever_its_type(parts, instance):
    await parts.say(instance)
    await declared(parts).follow()
    user = pb.Shield(identifier="mine", provider_id="safety", provider_resource_id="guard", source=pb.SOURCE_USER)
    await parts.store.commit([Put(records.key_of(user), records.encode(user))])
    await declared(parts, PROVIDERS).follow()
    assert list(await rows(parts)) == ["shield/mine"]


async def test_without_instances_everything_is_pending_with_its_own_reason(parts):
    assert await declared(parts).follow()
    reasons = await pending(parts)
    assert sorted(reasons) == KEYS
    assert reasons["shield/guard"] == "no instance of the provider safety is running"
    assert reasons["memory_bank/docs"] == (
        "the embedding model embedder is declared in the YAML and pending: no instance of the provider inference is "
        "running"
    )


async def test_a_bank_waits_for_its_model_and_nothing_else_does(parts, instance):
    await parts.say(instance)
    instance.providers["inference"].aliases.clear()
    one = declared(parts)
    assert await one.follow()
    assert sorted(await pending(parts)) == ["memory_bank/docs", "model/embedder"]
    instance.providers["inference"].aliases["embedder"] = "embedder"
    assert not await one.follow()
    assert not await pending(parts)


async def test_a_bank_whose_model_nobody_declares_waits_for_a_user(parts, instance):
    await parts.say(instance)
    one = declared(parts, TEXT.replace("models: [{model_id: embedder}]", ""))
    assert await one.follow()
    assert await pending(parts) == {
        "memory_bank/docs": "params.vector.embedding_model embedder is not a registered model; there are none"
    }
    await parts.registrations.register(pb.Model(identifier="embedder"))
    assert not await one.follow()
    assert (await rows(parts))["memory_bank/docs"].provider_resource_id == "docs"


async def test_what_was_discovered_yields_to_the_yaml(parts, instance):
    await parts.say(instance)
    found = pb.Shield(identifier="guard", provider_id="safety", provider_resource_id="x", source=pb.SOURCE_DISCOVERED)
    found.created_at.FromSeconds(1000)
    await parts.store.commit([Put(records.key_of(found), records.encode(found))])
    assert not await declared(parts).follow()
    row = (await rows(parts))["shield/guard"]
    assert (row.source, row.provider_resource_id, row.created_at.seconds) == (pb.SOURCE_CONFIG, "guard", 1000)


async def test_a_backend_that_hangs_holds_up_its_own_type_only(parts, instance):
    await parts.say(instance)
    instance.providers["inference"].hangs = True
    async with background(declared(parts, ask_seconds=30).run(), "declared"):

        async def others():
            return {"shield/guard", "agent/helper"} <= (await rows(parts)).keys()

        await until(others)
        assert not {"model/embedder", "memory_bank/docs"} & (await rows(parts)).keys()


async def test_providers_say_whether_what_they_serve_is_registered_by_itself(parts, instance):
    await declared(parts, PROVIDERS).follow()
    assert {p.provider_id: p.auto_register for p in (await parts.known()).providers()} == {
        "inference": False,
        "safety": True,
        "memory": False,
        "agents": False,
    }
    await parts.say(instance)
    await declared(parts, "version: 1").follow()
    assert not any(p.auto_register for p in (await parts.known()).providers())
    assert {p.source for p in (await parts.known()).providers()} == {pb.SOURCE_DISCOVERED}


async def test_a_store_that_cannot_be_reached_at_first_is_tried_again(parts, store, instance):
    await parts.say(instance)
    store.unreachable = True
    one = declared(parts)
    async with background(one.run(), "declared") as task:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await one.followed.wait()
        store.unreachable = False
        async with asyncio.timeout(5):
            await one.followed.wait()

        async def all_there():
            return sorted(await rows(parts)) == KEYS

        await until(all_there)
        assert not task.done()


async def test_parameters_count_when_their_provider_has_accepted_them(parts, instance):
    await parts.say(instance)
    await declared(parts).follow()
    before = (await rows(parts))["shield/guard"]
    text = TEXT.replace("level: 2", "level: 3")
    instance.providers["safety"].fails = BackendUnreachable("down")
    assert await declared(parts, text).follow()
    assert (await rows(parts))["shield/guard"] == before
    instance.providers["safety"].fails = NotHosted("no such level")
    assert await declared(parts, text).follow()
    assert (await pending(parts)) == {"shield/guard": "no such level"}
    instance.providers["safety"].fails = None
    assert not await declared(parts, text).follow()
    assert (await rows(parts))["shield/guard"].params["level"] == 3


async def many_declared(parts, instance, names):
    """A configuration that declares so many models, of a provider that has them all."""
    instance.providers["inference"].aliases.update({name: name for name in names})
    await parts.say(instance)
    return PROVIDERS + "models:\n" + "\n".join(f"- {{model_id: {name}}}" for name in names)


async def test_many_new_declarations_are_few_commits_and_so_is_their_end(parts, store, instance):
    names = [f"m{n:04}" for n in range(1000)]
    text = await many_declared(parts, instance, names)
    for config, left, most in ((text, 1000, 500), (PROVIDERS, 0, 40)):
        before = await store.revision()
        assert not await declared(parts, config).follow()
        assert len((await parts.known()).resources(KINDS[1])) == left
        # At best a fiftieth of the names. Those that come in are as many as their provider has answered for meanwhile.
        assert await store.revision() - before <= most


async def test_one_that_comes_too_late_costs_no_other_its_place(parts, store, instance):
    names = [f"m{n:04}" for n in range(120)]
    text = await many_declared(parts, instance, names)
    known = await parts.known()
    user = pb.Model(identifier="m0060", provider_id="inference", provider_resource_id="x", source=pb.SOURCE_USER)
    await store.commit([Put(records.key_of(user), records.encode(user))])
    one = declared(parts, text)
    resources = one._types[KINDS[1].resource_type]
    assert await resources.follow(known)
    found = (await parts.known()).resources(KINDS[1])
    assert sorted(found) == names
    assert [name for name, row in found.items() if row.source != pb.SOURCE_CONFIG] == ["m0060"]


async def test_a_declared_name_that_somebody_frees_or_spoils_is_declared_again(parts, instance):
    await parts.say(instance)
    user = pb.Shield(identifier="guard", provider_id="safety", provider_resource_id="x", source=pb.SOURCE_USER)
    kind = KINDS[2]
    await parts.store.commit([Put(records.key_of(user), records.encode(user))])
    async with background(declared(parts).run(), "declared"):

        async def there():
            return "agent/helper" in await rows(parts)

        await until(there)
        assert (await rows(parts))["shield/guard"].source == pb.SOURCE_USER
        await parts.registrations.unregister(kind, "guard")

        async def declared_again():
            row = (await rows(parts)).get("shield/guard")
            return row is not None and row.source == pb.SOURCE_CONFIG and row.provider_resource_id == "guard"

        await until(declared_again)
        for spoilt in (Delete("shield/guard"), Put("shield/guard", records.encode(pb.Shield(source=2)))):
            await parts.store.commit([spoilt])
            await until(declared_again)


async def test_what_cannot_be_followed_now_is_not_tried_without_a_pause(parts, store, instance, caplog):
    """A name that is declared is freed while the store answers nothing: it is known, and nothing can be done."""
    await parts.say(instance)
    async with background(declared(parts).run(), "declared"):

        async def there():
            return sorted(await rows(parts)) == KEYS

        await until(there)
        store.unreachable = True
        await store.commit([Delete("shield/guard")])

        def tries():
            return sum("could not follow" in record.message for record in caplog.records)

        await until(tries)
        with pytest.raises(TimeoutError):
            await until(lambda: tries() > 10, 1)
        store.unreachable = False
        await until(there)


async def test_what_it_writes_itself_does_not_disturb_it(parts, store, instance):
    """The reason why it is pending may be another one each time."""
    await parts.say(instance)
    numbers = iter(range(1000))
    provider = instance.providers["inference"]
    provider.aliases = Numbered(numbers)
    one = declared(parts)
    assert await one.follow()
    known = await parts.known()
    assert await one.follow()
    later = await parts.known()
    assert later.revision > known.revision
    models = one._types[KINDS[1].resource_type]
    assert not models.disturbed(later)
    models._written.clear()
    assert models.disturbed(later)


class Numbered(dict):
    """Says something else each time it is shown."""

    def __init__(self, numbers):
        super().__init__()
        self._numbers = numbers

    def __iter__(self):
        return iter([f"name-{next(self._numbers)}"])


async def test_many_declarations_do_not_hold_up_the_loop(parts, instance):
    """What is settled is looked at in slices."""
    names = [f"m{n}" for n in range(2000)]
    instance.providers["inference"].aliases.update({name: name for name in names})
    await parts.say(instance)
    text = PROVIDERS + "models:\n" + "\n".join(f"- {{model_id: {name}}}" for name in names)
    made = [pb.Model(identifier=n, provider_id="inference", provider_resource_id=n, source=2) for n in names]
    for start in range(0, 2000, 50):
        await parts.store.commit([Put(records.key_of(r), records.encode(r)) for r in made[start : start + 50]])
    one, revision, turns = declared(parts, text), await parts.store.revision(), 0
    following = asyncio.create_task(one.follow())
    while not following.done():
        turns += 1
        await asyncio.sleep(0)
    assert not following.result()
    assert await parts.store.revision() == revision + 1  # the rows of the providers
    assert turns > 20
    assert not instance.providers["inference"].asked
