import asyncio

import pytest

from registry_service.instances import drafts as module
from registry_service.sqlite.store import SqliteStore
from registry_service.store import COMMIT_LIMIT
from stackmesh.errors import Conflict, FailedPrecondition, RegistryUnreachable
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api
from tests.fakes.registry_parts import drafting

INFERENCE = Api.API_INFERENCE
LIMIT = 10.0


class Watched(SqliteStore):
    """Counts commits; `refuse` is asked about each."""

    commits = 0
    refuse = staticmethod(lambda _: None)

    async def commit(self, ops, *, expect=None):
        self.commits += 1
        if (error := self.refuse(ops)) is not None:
            raise error
        return await super().commit(ops, expect=expect)


class Careless(Watched):
    async def commit(self, ops, *, expect=None):
        return await super().commit(ops)


@pytest.fixture
async def store(tmp_path):
    async with Watched(tmp_path / "r.db") as store:
        yield store


def provider(name="p", **fields):
    return pb.Provider(api=INFERENCE, provider_id=name, **fields)


def add(name, to="p"):
    def change(draft):
        row = draft.provider(INFERENCE, to) or provider(to)
        row.served.append(name)
        draft.put(row)

    return change


async def replicas_lose_nothing(store, count=100):
    async with drafting(store) as (mirror, one), drafting(store) as (_, two), asyncio.timeout(LIMIT):
        await asyncio.gather(*((one, two)[n % 2].update(add(f"{n}")) for n in range(count)))
        served = (await mirror.current()).provider(INFERENCE, "p").served
        assert sorted(served) == sorted(f"{n}" for n in range(count))


async def test_writers_at_once_lose_nothing(store):
    await replicas_lose_nothing(store)


async def test_the_check_finds_a_store_that_does_not_compare(tmp_path):
    async with Careless(tmp_path / "careless.db") as store:
        with pytest.raises(AssertionError):
            await replicas_lose_nothing(store)


async def test_those_that_wait_at_the_same_time_are_one_commit(store):
    async with drafting(store) as (mirror, drafts):
        await mirror.current()
        revisions = await asyncio.gather(*(drafts.update(add("m", f"p{n:02}")) for n in range(2 * COMMIT_LIMIT)))
        assert store.commits == 2
        assert sorted(revisions) == [1] * COMMIT_LIMIT + [2] * COMMIT_LIMIT
        assert len((await mirror.current()).providers()) == 2 * COMMIT_LIMIT


async def test_one_that_is_refused_takes_nobody_along(store):
    def refused(draft):
        draft.put(provider("half"))
        raise FailedPrecondition("no")

    async with drafting(store) as (mirror, drafts):
        results = await asyncio.gather(
            drafts.update(add("a")), drafts.update(refused), drafts.update(add("b")), return_exceptions=True
        )
        assert [type(result) for result in results] == [int, FailedPrecondition, int]
        known = await mirror.current()
        assert [(p.provider_id, list(p.served)) for p in known.providers()] == [("p", ["a", "b"])]


async def test_one_that_always_conflicts_takes_nobody_along(store):
    store.refuse = lambda ops: Conflict("the lease has ended") if any("/bad" in op.key for op in ops) else None
    async with drafting(store) as (_, drafts), asyncio.timeout(LIMIT):
        changes = [add("a", "bad"), *(add("m", f"p{n}") for n in range(5))]
        results = await asyncio.gather(*map(drafts.update, changes), return_exceptions=True)
        assert [type(result) for result in results] == [Conflict] + [int] * 5
        assert store.commits == module.ATTEMPTS + 1


async def test_a_store_that_fails_is_told_and_the_next_one_is_tried(store):
    async with drafting(store) as (_, drafts), asyncio.timeout(LIMIT):
        store.refuse = lambda _: RegistryUnreachable("gone")
        with pytest.raises(RegistryUnreachable, match="gone"):
            await drafts.update(add("a"))
        store.refuse = lambda _: None
        assert await drafts.update(add("a"))


async def test_who_stops_waiting_disturbs_nobody(store):
    async with drafting(store) as (mirror, drafts):
        waiting = [asyncio.create_task(drafts.update(add(f"{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        for task in waiting[::2]:
            task.cancel()
        await asyncio.gather(*waiting[1::2])
        assert {"1", "3", "5", "7", "9"} <= set((await mirror.current()).provider(INFERENCE, "p").served)
