import pytest

from registry_service.instances.draft import COMMIT_BYTES, Draft
from registry_service.mirror.known import Known
from registry_service.mirror.source import StoreSource
from registry_service.sqlite.store import SqliteStore
from stackmesh.errors import Conflict
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api

INFERENCE = Api.API_INFERENCE


def provider(name="p", **fields):
    return pb.Provider(api=INFERENCE, provider_id=name, **fields)


def instance(name, *providers):
    entries = [pb.HostedProvider(api=INFERENCE, provider_id=p) for p in providers]
    return pb.Instance(instance_id=name, address="127.0.0.1:1", providers=entries)


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        yield store


async def known(store):
    listed = await StoreSource(store).list()
    return Known().after(listed.entries, listed.revision)


async def written(store, *rows, always=False):
    draft = Draft(await known(store))
    for row in rows:
        draft.put(row, always=always)
    return await draft.commit(store)


async def test_what_has_not_changed_is_not_written(store):
    revision = await written(store, provider(position=1))
    assert await written(store, provider(position=1)) == revision
    assert await written(store, provider(position=1), always=True) == revision + 1


async def test_what_is_always_written_is_written_though_others_put_it_too(store):
    """Several instances' changes are one commit: one says hello, another one reports nothing new."""
    revision = await written(store, provider(position=1))
    draft = Draft(await known(store))
    thrown_away = draft.fork()
    thrown_away.put(provider(position=1), always=True)
    draft.put(provider(position=1))
    assert await draft.commit(store) == revision
    draft.put(provider(position=1), always=True)
    draft.put(provider(position=1))
    assert await draft.commit(store) == revision + 1


async def test_a_draft_shows_what_it_will_be(store):
    await written(store, provider("a"))
    draft = Draft(await known(store))
    draft.put(provider("b"))
    draft.delete(provider("a"))
    assert [p.provider_id for p in draft.providers()] == ["b"]
    assert draft.provider(INFERENCE, "a") is None
    draft.put(provider("a", position=2))
    assert draft.provider(INFERENCE, "a") == provider("a", position=2)
    revision = await draft.commit(store)
    rows = (await known(store)).providers()
    assert [(p.provider_id, p.position, p.revision) for p in rows] == [("b", 0, revision), ("a", 2, revision)]


async def test_what_it_hands_out_is_a_copy(store):
    await written(store, provider("a"), instance("i"))
    before = await known(store)
    draft = Draft(before)
    draft.provider(INFERENCE, "a").position = 7
    draft.instance("i").address = "elsewhere"
    draft.providers()[0].position = 9
    mine = provider("b")
    draft.put(mine)
    mine.position = 8
    assert (draft.provider(INFERENCE, "a").position, draft.provider(INFERENCE, "b").position) == (0, 0)
    assert before.instance("i").address == "127.0.0.1:1"


async def test_hosts_are_those_of_the_draft(store):
    await written(store, instance("i", "p"), instance("j", "p"), instance("k", "q"))
    draft = Draft(await known(store))
    draft.put(instance("i", "q"))
    draft.put(instance("l", "p"))
    draft.delete(instance("j"))
    assert {i.instance_id for i in draft.hosts(INFERENCE, "p")} == {"l"}
    assert {i.instance_id for i in draft.hosts(INFERENCE, "q")} == {"i", "k"}


async def test_a_fork_can_be_thrown_away(store):
    draft = Draft(await known(store))
    draft.put(provider("a"))
    fork = draft.fork()
    fork.put(provider("b"))
    fork.delete(provider("a"))
    await draft.commit(store)
    assert [p.provider_id for p in (await known(store)).providers()] == ["a"]


async def test_somebody_faster_is_a_conflict(store):
    draft = Draft(await known(store))
    draft.put(provider("a", position=1))
    await written(store, provider("a"))
    with pytest.raises(Conflict):
        await draft.commit(store)
    assert (await known(store)).provider(INFERENCE, "a").position == 0


async def test_more_than_a_commit_holds_is_written_in_the_order_it_was_put(store):
    draft = Draft(await known(store))
    for n in reversed(range(60)):
        draft.put(provider(f"p{n:02}"))
    assert not draft.fits
    assert await draft.commit(store) == 2
    rows = (await known(store)).providers()
    assert {p.provider_id: p.revision for p in rows} == {f"p{n:02}": 1 if n >= 10 else 2 for n in range(60)}


async def test_commits_are_bounded_in_bytes_too(store):
    draft = Draft(await known(store))
    for n in range(3):
        draft.put(provider(f"p{n}", served=["x" * (COMMIT_BYTES // 2 - 100)]))
    draft.put(provider("p3", served=["x" * 2 * COMMIT_BYTES]))
    assert await draft.commit(store) == 3
    assert [p.revision for p in (await known(store)).providers()] == [1, 1, 2, 3]
