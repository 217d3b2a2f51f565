import base64

import pytest

from registry_service.pages import MOST, Listing, read_page
from registry_service.sqlite import SqliteStore
from registry_service.store import Put
from stackmesh.errors import InvalidPageToken, RevisionGone

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


async def test_tokens_of_another_list_or_store_are_refused(store, tmp_path):
    token = (await read_page(store, THINGS, 2, "")).next_token
    with pytest.raises(InvalidPageToken, match="another list"):
        await read_page(store, Listing("others", "t/"), 2, token)
    async with SqliteStore(tmp_path / "other.db") as other:
        with pytest.raises(InvalidPageToken):
            await read_page(other, THINGS, 2, token)


async def test_a_list_left_for_too_long_is_gone(store):
    token = (await read_page(store, THINGS, 2, "")).next_token
    await store.compact(await store.commit([Put("t/x", b"")]))
    with pytest.raises(RevisionGone):
        await read_page(store, THINGS, 2, token)
