import pytest

from registry_service import records
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put
from stackmesh.errors import Conflict, InvalidField, NotServing, ResourceExists
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS, kind_of
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.unit.registry_service.parts import copied, parts_of

NAMES = {"mine": "real", "docs": "docs", "embedder": "embedder"}
DOCS = pb.MemoryBank(identifier="docs", params={"vector": {"embedding_model": "embedder", "chunk_size_in_tokens": 512}})


class Meddled(SqliteStore):
    """Does something else before each of the first commits to a key."""

    def __init__(self, path):
        super().__init__(path)
        self.before = []

    async def commit(self, ops, *, expect=None):
        if self.before and ops[0].key.endswith("/docs"):
            await super().commit(self.before.pop())
        return await super().commit(ops, expect=expect)


@pytest.fixture
async def store(tmp_path):
    async with Meddled(tmp_path / "r.db") as store:
        yield store


@pytest.fixture
async def parts(store):
    providers = {kind.word.replace("_", "-"): FakeProvider(NAMES, api=kind.api) for kind in KINDS.values()}
    async with parts_of(store) as parts, fakes.running(providers) as instance:
        await parts.say(instance)
        yield parts


def put(row):
    return Put(records.key_of(row), records.encode(row))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.word)
async def test_what_was_discovered_becomes_the_users_in_one_write(parts, store, kind):
    asked = kind.message(identifier="mine")
    (asked.params.key_value if kind.word == "memory_bank" else getattr(asked, kind.payload)).SetInParent()
    found = copied(asked)
    found.provider_id, found.provider_resource_id = kind.word.replace("_", "-"), "real"
    found.source = pb.SOURCE_DISCOVERED
    found.created_at.FromSeconds(1000)
    for change in ("register", "update"):
        before = await store.commit([put(found)])
        match change:
            case "register":
                row = await parts.registrations.register(asked)
            case "update":
                row = await parts.registrations.update(kind.message(identifier="mine"), before)
        assert (row.source, row.revision, row.created_at.seconds) == (pb.SOURCE_USER, before + 1, 1000)
        assert (row.provider_id, row.provider_resource_id) == (found.provider_id, "real")
        assert await parts.registrations.get(kind, "mine") == row
        with pytest.raises(Conflict):
            await parts.registrations.update(kind.message(identifier="mine"), before)


async def test_a_discovered_row_may_be_registered_with_something_else(parts, store):
    found = pb.Model(identifier="mine", provider_id="other", provider_resource_id="x", source=pb.SOURCE_DISCOVERED)
    await store.commit([put(found)])
    row = await parts.registrations.register(pb.Model(identifier="mine"))
    assert (row.provider_id, row.provider_resource_id, row.source) == ("model", "real", pb.SOURCE_USER)


async def test_a_config_row_says_where_to_change_it(parts, store):
    found = pb.Model(identifier="mine", provider_id="model", provider_resource_id="real", source=pb.SOURCE_CONFIG)
    await store.commit([put(found)])
    assert (await parts.registrations.register(pb.Model(identifier="mine"))).source == pb.SOURCE_CONFIG
    with pytest.raises(ResourceExists, match="or with other metadata; change it in the YAML"):
        await parts.registrations.register(pb.Model(identifier="mine", provider_id="other"))


async def test_what_is_returned_is_the_callers_own(parts):
    kind = KINDS[1]
    row = await parts.registrations.register(pb.Model(identifier="mine"))
    for mine in (
        row,
        await parts.registrations.get(kind, "mine"),
        await parts.registrations.register(pb.Model(identifier="mine")),
        await parts.registrations.update(pb.Model(identifier="mine"), row.revision),
    ):
        mine.provider_id = "spoiled"
    assert (await parts.known()).resource(kind, "mine").provider_id == "model"


# A vector bank and its embedding model


async def embedder(parts):
    return await parts.registrations.register(pb.Model(identifier="embedder"))


async def test_an_embedding_model_has_to_be_registered(parts, store):
    revision = await store.revision()
    with pytest.raises(InvalidField, match="embedder is not a registered model; there are none") as raised:
        await parts.registrations.register(DOCS)
    assert raised.value.field == "params.vector.embedding_model"
    assert await store.revision() == revision
    await embedder(parts)
    row = await parts.registrations.register(DOCS)
    wrong = pb.MemoryBank(identifier="docs", params={"vector": {"embedding_model": "embeder"}})
    with pytest.raises(InvalidField, match="embeder is not a registered model; there are: embedder"):
        await parts.registrations.update(wrong, row.revision)
    assert await parts.registrations.get(kind_of(DOCS), "docs") == row


async def test_a_pending_embedding_model_is_not_there_yet(parts, store):
    pending = pb.Model(identifier="embedder", source=pb.SOURCE_CONFIG, pending_reason="nobody to ask")
    await store.commit([put(pending)])
    with pytest.raises(NotServing, match="the embedding model embedder is declared in the YAML and pending: nobody"):
        await parts.registrations.register(DOCS)


async def relies_on_its_model(parts, store):
    """The model goes after it was looked up and before the bank is written."""
    await embedder(parts)
    store.before = [[Delete("model/embedder")]]
    with pytest.raises(InvalidField, match="embedder is not a registered model"):
        await parts.registrations.register(DOCS)
    assert await store.get("memory_bank/docs") is None


async def test_a_bank_and_its_model_are_one_decision(parts, store):
    await relies_on_its_model(parts, store)


async def test_the_check_finds_a_bank_that_does_not_expect_its_model(tmp_path):
    class Forgetful(Meddled):
        async def commit(self, ops, *, expect=None):
            keys = {op.key for op in ops}
            return await super().commit(ops, expect={key: at for key, at in (expect or {}).items() if key in keys})

    async with Forgetful(tmp_path / "r.db") as store, parts_of(store) as parts:
        async with fakes.running({"m": FakeProvider(NAMES), "b": FakeProvider(NAMES, api=kind_of(DOCS).api)}) as one:
            await parts.say(one)
            with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
                await relies_on_its_model(parts, store)


async def test_who_is_always_too_late_is_told(parts, store):
    await embedder(parts)
    store.before = [[put(pb.Model(identifier="embedder", provider_id=f"p{n}"))] for n in range(20)]
    with pytest.raises(Conflict, match="docs keeps changing; try again"):
        await parts.registrations.register(DOCS)
    assert await store.get("memory_bank/docs") is None
    store.before = store.before[:3]
    assert (await parts.registrations.register(DOCS)).identifier == "docs"
