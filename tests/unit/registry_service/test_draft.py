import asyncio

import pytest

from registry_service import draft as drafts, records
from registry_service.draft import Draft, update
from registry_service.sqlite import SqliteStore
from stackmesh.errors import Conflict
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api


def provider(name="p", **fields):
    return pb.Provider(api=Api.API_INFERENCE, provider_id=name, **fields)


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


async def test_what_has_not_changed_is_not_written(store):
    revision = await update(store, lambda draft: draft.put(provider(position=1)))
    assert await update(store, lambda draft: draft.put(provider(position=1))) == revision
    assert await update(store, lambda draft: draft.put(provider(position=1), always=True)) == revision + 1


async def test_a_draft_shows_what_it_will_be(store):
    await update(store, lambda draft: draft.put(provider("a")))

    def change(draft: Draft):
        draft.put(provider("b"))
        draft.delete(provider("a"))
        assert [p.provider_id for p in draft.providers()] == ["b"]
        assert draft.provider(Api.API_INFERENCE, "a") is None
        draft.put(provider("a", position=2))
        assert draft.provider(Api.API_INFERENCE, "a") == provider("a", position=2)

    revision = await update(store, change)
    rows, _ = await records.read(store, records.PROVIDERS, records.provider)
    assert [(p.provider_id, p.position, p.revision) for p in rows] == [("a", 2, revision), ("b", 0, revision)]


async def test_writers_at_once_lose_nothing(store):
    def add(name):
        def change(draft):
            row = draft.provider(Api.API_INFERENCE, "p") or provider()
            row.served.append(name)
            draft.put(row)

        return change

    await asyncio.gather(*(update(store, add(f"{n}")) for n in range(8)))
    rows, _ = await records.read(store, records.PROVIDERS, records.provider)
    assert sorted(rows[0].served) == [f"{n}" for n in range(8)]


async def test_more_than_a_commit_holds_is_written_in_the_order_it_was_put(store):
    def change(draft):
        for n in reversed(range(60)):
            draft.put(provider(f"p{n:02}"))

    await update(store, change)
    rows, _ = await records.read(store, records.PROVIDERS, records.provider)
    assert {p.provider_id: p.revision for p in rows} == {f"p{n:02}": 1 if n >= 10 else 2 for n in range(60)}


async def test_a_conflict_that_does_not_end_is_raised(tmp_path):
    class Contended(SqliteStore):
        commits = 0

        async def commit(self, ops, *, expect=None):
            self.commits += 1
            raise Conflict("always")

    async with Contended(tmp_path / "contended.db") as store:
        with pytest.raises(Conflict):
            await update(store, lambda draft: draft.put(provider()))
    assert store.commits == drafts.ATTEMPTS
