import base64
from itertools import chain

import pytest

from registry_service.lists.pages import Listing, read_page
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.errors import InvalidPageToken, RevisionGone
from stackmesh.pages import MOST, PAGE_BYTES

THINGS = Listing("things", "t/", default_size=2)


@pytest.fixture
async def store(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        for n in range(0, 1100, 50):
            await store.commit([Put(f"t/{i:04}", b"") for i in range(n, n + 50)])
        yield store


async def test_sizes_have_a_default_and_a_limit(store):
    assert len((await read_page(store, THINGS, 0, "")).rows) == 2
    assert len((await read_page(store, THINGS, 5000, "")).rows) == MOST
    page = await read_page(store, THINGS, 5000, (await read_page(store, THINGS, 1000, "")).next_token)
    assert (len(page.rows), page.next_token) == (100, "")


async def test_every_altered_byte_is_noticed(store):
    token = base64.urlsafe_b64decode((await read_page(store, THINGS, 2, "")).next_token)
    for place in range(len(token)):
        altered = bytearray(token)
        altered[place] ^= 1
        with pytest.raises(InvalidPageToken):
            await read_page(store, THINGS, 2, base64.urlsafe_b64encode(altered).decode())


async def test_tokens_of_another_list_are_refused(store):
    token = (await read_page(store, THINGS, 2, "")).next_token
    with pytest.raises(InvalidPageToken, match="another list"):
        await read_page(store, Listing("others", "t/"), 2, token)


async def test_a_list_begun_in_another_store_is_gone(store, tmp_path):
    token = (await read_page(store, THINGS, 2, "")).next_token
    async with SqliteStore(tmp_path / "other.db") as other:
        with pytest.raises(RevisionGone, match="list again"):
            await read_page(other, THINGS, 2, token)


async def test_a_list_begun_before_a_restart_is_gone_and_can_be_read_again(tmp_path):
    """The file may have been replaced by an older copy of itself meanwhile."""
    async with SqliteStore(tmp_path / "r.db") as store:
        await store.commit([Put(f"t/{n}", b"") for n in range(3)])
        token = (await read_page(store, THINGS, 2, "")).next_token
    async with SqliteStore(tmp_path / "r.db") as store:
        with pytest.raises(RevisionGone, match="list again"):
            await read_page(store, THINGS, 2, token)
        with pytest.raises(InvalidPageToken):
            await read_page(store, THINGS, 2, token[:-4])
        assert (await read_page(store, THINGS, 2, (await read_page(store, THINGS, 2, "")).next_token)).rows


class Replaced(SqliteStore):
    """Becomes another one while it is listed."""

    listed = 0

    async def list(self, prefix, **options):
        self.listed += 1
        return await super().list(prefix, **options)

    async def store_id(self):
        return f"{self.listed}"


async def test_a_page_is_of_one_store(store, tmp_path):
    assert (await read_page(store, THINGS, 2, "")).store_id == await store.store_id()
    async with Replaced(tmp_path / "other.db") as other:
        with pytest.raises(RevisionGone, match="another one"):
            await read_page(other, THINGS, 2, "")


async def test_a_list_left_for_too_long_is_gone(store):
    token = (await read_page(store, THINGS, 2, "")).next_token
    await store.compact(await store.commit([Put("t/x", b"")]))
    with pytest.raises(RevisionGone):
        await read_page(store, THINGS, 2, token)


# Several prefixes, chosen rows, large rows


async def pages(store, listing, size=0):
    """The keys of every page."""
    found, token = [], ""
    while True:
        page = await read_page(store, listing, size, token)
        found.append([row.key for row in page.rows])
        if not (token := page.next_token):
            return found


@pytest.fixture
async def small(tmp_path):
    async with SqliteStore(tmp_path / "small.db") as store:
        await store.commit([Put(f"{prefix}/{n}", b"") for prefix in "abc" for n in range(4)])
        yield store


@pytest.mark.parametrize("size", range(1, 10))
async def test_pages_go_from_prefix_to_prefix(small, size):
    found = await pages(small, Listing("x", ("c/", "a/", "none/")), size)
    assert [*chain(*found)] == [f"{prefix}/{n}" for prefix in "ac" for n in range(4)]
    assert [len(keys) for keys in found[:-1]] == [size] * (len(found) - 1)
    assert found[-1]


@pytest.mark.parametrize("size", range(1, 8))
async def test_pages_are_full_of_what_is_wanted(small, size):
    found = await pages(small, Listing("odd", "", keep=lambda row: int(row.key[-1]) % 2 == 1), size)
    assert [*chain(*found)] == [f"{prefix}/{n}" for prefix in "abc" for n in (1, 3)]
    assert [len(keys) for keys in found[:-1]] == [size] * (len(found) - 1)
    assert found[-1]


async def test_a_list_of_nothing_is_one_empty_page(small):
    assert await pages(small, Listing("none", ("none/", "nor/"))) == [[]]
    page = await read_page(small, Listing("none", "", keep=lambda _: False), 2, "")
    assert (page.rows, page.revision, page.next_token) == ((), 1, "")


async def test_a_page_ends_before_it_gets_too_large(tmp_path):
    async with SqliteStore(tmp_path / "large.db") as store:
        for n in range(20):
            await store.commit([Put(f"t/{n:02}", b"x" * (PAGE_BYTES // 4 - 100))])
        await store.commit([Put("t/huge", b"x" * 2 * PAGE_BYTES)])
        found = await pages(store, Listing("things", "t/", default_size=MOST))
        assert [len(keys) for keys in found] == [4] * 5 + [1]
        assert [*chain(*found)] == [f"t/{n:02}" for n in range(20)] + ["t/huge"]


async def test_every_page_is_of_the_first_ones_revision(small):
    listing = Listing("x", ("a/", "c/"))
    first = await read_page(small, listing, 2, "")
    await small.commit([Put("a/9", b""), Put("c/9", b"")])
    keys, token = [], first.next_token
    while token:
        page = await read_page(small, listing, 2, token)
        assert page.revision == first.revision
        keys, token = [*keys, *(row.key for row in page.rows)], page.next_token
    assert keys == ["a/2", "a/3", "c/0", "c/1", "c/2", "c/3"]
