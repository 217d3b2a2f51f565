"""What etcd has no room for changes nothing, and says what to do."""

import pytest

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.lists.pages import Listing, read_page
from registry_service.mirror.source import StoreSource
from registry_service.store import Put, pages
from stackmesh.errors import RequestTooLarge, StoreFull
from tests.contracts.store import everything
from tests.fakes.etcd import etcd, store_url

MEGABYTE = 1024 * 1024


async def fill(store):
    for _ in range(100):
        await store.commit([Put("a", b"x" * MEGABYTE)])


async def test_a_full_store_says_what_to_do_and_works_when_that_is_done(tmp_path):
    async with etcd(tmp_path, f"--quota-backend-bytes={16 * MEGABYTE}") as member:
        async with EtcdStore(parse(store_url(member.address))) as store:
            lease = await store.grant(30)
            await store.commit([Put("leased", b"1", lease)])
            with pytest.raises(StoreFull, match=r"compact and defragment.*alarm disarm"):
                await fill(store)
            before, revision = await everything(store), await store.revision()
            with pytest.raises(StoreFull):
                await store.commit([Put("a", b"1"), Put("b", b"1")])
            with pytest.raises(StoreFull):
                await store.grant(5)
            assert await everything(store) == before
            for _ in range(2):
                await store.revoke(lease)
                assert not await store.keep_alive(lease)
            assert await everything(store) == {key: before[key] for key in before if key != "leased"}
            assert await store.revision() == revision
        async with EtcdStore(parse(store_url(member.address))) as store:
            await store.store_id()
            await store.compact(revision)
            await member.ctl("defrag")
            await member.ctl("alarm", "disarm")
            assert await store.commit([Put("a", b"1")]) == await store.revision()


async def test_a_commit_that_is_too_large_is_refused_whole(url):
    async with EtcdStore(parse(url)) as store:
        for size in (2 * MEGABYTE, 10 * MEGABYTE):
            with pytest.raises(RequestTooLarge, match=r"1\.5 MiB"):
                await store.commit([Put("small", b""), Put("large", b"x" * size)])
        assert await everything(store) == {}
        assert await store.revision() == 0


async def test_rows_that_are_too_large_for_one_answer_come_in_several(url):
    """gRPC would refuse the whole answer, of 64 MiB, again and again."""
    keys = [f"provider/inference/p{n:02}" for n in range(60)]
    async with EtcdStore(parse(url), limit=20) as store:
        for key in keys:
            await store.commit([Put(key, b"x" * int(1.2 * MEGABYTE))])
        found = [page async for page in pages(store, "")]
        assert [row.key for page in found for row in page.rows] == keys
        assert len(found) > 1
        assert {page.revision for page in found} == {found[0].revision}
        page = await read_page(store, Listing("providers", "provider/"), 1000, "")
        assert [row.key for row in page.rows] == keys[:1]
        assert (await StoreSource(store).list()).revision == found[0].revision
