"""Several meshes share one etcd, each under a prefix of its own: none of them sees or touches what another does."""

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.store import Delete, Put
from stackmesh.errors import Conflict
from tests.contracts.store import collect


async def conflicts(store, key):
    """Whether a write is refused that wants the key not to be there."""
    try:
        await store.commit([Put("marker", b"")], expect={key: 0})
    except Conflict:
        return True
    return False


async def noticed(one, other):
    """By what the other store notices that something is written into the first, under a lease that then ends."""
    own = await other.commit([Put("b", b"own", await other.grant(60))])
    lease = await one.grant(60)
    await one.commit([Put("a", b"1"), Put("b", b"1", lease)])
    signs = {
        "get": await other.get("a") is not None,
        "list": [row.key for row in (await other.list("")).rows] != ["b"],
        "overwritten": (await other.get("b")).value != b"own",
        "revision": await other.revision() != own,
        "compare": await conflicts(other, "a"),
    }
    await one.revoke(lease)
    signs["lease"] = await other.get("b") is None
    last = await other.commit([Put("last", b"")])
    changes = [change for commit in await collect(other, own + 1, last) for change in commit.changes]
    signs["watch"] = bool({change.key for change in changes} & {"a", "b"})
    return {sign for sign, there in signs.items() if there}


async def test_meshes_of_other_prefixes_are_not_seen(member, url):
    """One of them begins as the other does."""
    for one, other in ((url, f"{url}-2"), (f"{url}-4", f"{url}-3")):
        async with EtcdStore(parse(one)) as first, EtcdStore(parse(other)) as second:
            assert await noticed(first, second) == set()


async def test_that_check_finds_stores_of_the_same_prefix(member, url):
    async with EtcdStore(parse(url)) as first, EtcdStore(parse(url)) as second:
        everything = {"get", "list", "overwritten", "revision", "compare", "lease", "watch"}
        assert await noticed(first, second) == everything


async def test_an_idle_watch_among_busy_meshes_keeps_its_place(member, url):
    async with EtcdStore(parse(url), silence=0.05) as store, EtcdStore(parse(f"{url}-2")) as other:
        first = await store.commit([Put("a", b"1")])
        foreign = [await other.commit([Put("a", b"%d" % n)]) for n in range(3)]
        assert await store.revision() == first < foreign[0]
        last = await store.commit([Delete("a")])
        assert [c.revision for c in await collect(store, first, last)] == [first, last]
        assert [c.revision for c in await collect(other, first + 1, foreign[-1])] == foreign
