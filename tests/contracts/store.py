"""What every store promises, sentence by sentence. A store's own test file derives a class and gives the fixture
`stores`:

    class TestSqliteStore(StoreContract):
        @pytest.fixture
        def stores(self, tmp_path): return SqliteStores(tmp_path)
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Protocol

import pytest

from registry_service.store import COMMIT_LIMIT, EXPECT_LIMIT, Commit, Delete, Put, Row, Store
from stackmesh.errors import Conflict, RevisionGone

LIMIT = 10.0


class Stores(Protocol):
    """Opens one and the same data, again and again, and lets time pass for its leases."""

    second: float
    """What these tests call a second, in seconds as the store counts them. Its leases may live in real time."""

    def open(self) -> AbstractAsyncContextManager[Store]: ...

    async def pass_time(self, seconds: float) -> None: ...

    async def away(self, seconds: float) -> None:
        """The store itself ends, and comes back after `seconds`. None may be open."""
        ...


async def now(store: Store) -> int:
    """The revision everything can be read at, and watched from the next on."""
    return (await store.list("", limit=1)).revision


async def collect(store: Store, start: int, upto: int) -> list[Commit]:
    """The commits from `start` to `upto`, checkpoints left out."""
    commits = []
    async with asyncio.timeout(LIMIT), aclosing(store.watch(start)) as watch:
        async for commit in watch:
            if commit.changes:
                commits.append(commit)
            if commit.revision >= upto:
                break
    return commits


async def next_change(watch: AsyncGenerator[Commit]) -> Commit:
    """The next commit that is no checkpoint."""
    while not (commit := await anext(watch)).changes:
        pass
    return commit


async def next_changes(store: Store, start: int, count: int = 1) -> list[Commit]:
    """The first `count` commits from `start` on, checkpoints left out."""
    async with asyncio.timeout(LIMIT), aclosing(store.watch(start)) as watch:
        return [await next_change(watch) for _ in range(count)]


async def nothing_from(store: Store, start: int) -> None:
    """A watch from `start` on is told that it cannot be had."""
    async with asyncio.timeout(LIMIT), aclosing(store.watch(start)) as watch:
        with pytest.raises(RevisionGone):
            await next_change(watch)


async def everything(store: Store, revision: int | None = None, page: int = 3) -> dict[str, bytes]:
    rows: list[Row] = []
    more = True
    while more:
        found = await store.list("", after=rows[-1].key if rows else "", limit=page, revision=revision)
        rows.extend(found.rows)
        more, revision = found.more, found.revision
    assert [r.key for r in rows] == sorted(r.key for r in rows)
    return {r.key: r.value for r in rows}


async def one_wins(contenders: Sequence[Store], rounds: int) -> None:
    """In each round all contenders swap the same key from what they have read; exactly one may succeed."""
    for number in range(rounds):
        row = await contenders[0].get("key")
        seen = row.revision if row else 0

        async def swap(store: Store, value: bytes, seen: int = seen) -> bool:
            try:
                await store.commit([Put("key", value)], expect={"key": seen})
            except Conflict:
                return False
            return True

        values = [f"{number}/{i}".encode() for i in range(len(contenders))]
        won = await asyncio.gather(*(swap(s, v) for s, v in zip(contenders, values, strict=True)))
        assert sum(won) == 1
        row = await contenders[0].get("key")
        assert row is not None
        assert row.value == values[won.index(True)]


class StoreContract:
    @pytest.fixture
    async def store(self, stores):
        async with stores.open() as store:
            yield store

    async def fill(self, store, count=6):
        """The revisions of `count` commits."""
        return [
            await store.commit([Put(f"k{n % 4}", str(n).encode()), Put(f"n{n}", b"x"), Delete(f"n{n - 1}")])
            for n in range(count)
        ]

    async def gone(self, stores, store, key):
        async with asyncio.timeout(LIMIT):
            while await store.get(key) is not None:
                await stores.pass_time(0.1)

    # Durable

    async def test_what_is_acknowledged_survives(self, stores):
        async with stores.open() as store:
            first = await store.store_id()
            revision = await store.commit([Put("a", b"1")])
            assert await store.store_id() == first != ""
        async with stores.open() as store:
            assert await store.get("a") == Row("a", b"1", revision)
            assert await store.revision() == revision

    async def test_cancelled_writes_happen_whole_or_not_at_all(self, store):
        start = await now(store) + 1
        for n in range(50):
            ops = [Put(f"{n}/a", b"1"), Put(f"{n}/b", b"2")]
            write = asyncio.create_task(store.commit(ops))
            for _ in range(n % 4):
                await asyncio.sleep(0)
            write.cancel()
            await asyncio.wait([write])
        revision = await store.commit([Put("last", b"")])
        *writes, last = await collect(store, start, revision)
        assert len(last.changes) == 1
        assert {len(c.changes) for c in writes} <= {2}

    # revision, get, list

    async def test_an_empty_store_is_at_revision_0(self, store):
        assert await store.revision() == 0
        assert await store.get("a") is None
        page = await store.list("")
        assert (page.rows, page.more) == ((), False)

    async def test_the_revision_never_falls(self, stores):
        async with stores.open() as store:
            await store.commit([Put("a", b"1")])
            revision = await store.commit([Delete("a")])
            await store.compact(revision)
            assert await store.revision() == revision
        async with stores.open() as store:
            assert await store.revision() == revision
            assert await store.commit([Put("a", b"2")]) > revision

    async def test_get_says_who_wrote_it_last(self, store):
        first = await store.commit([Put("a", b"1"), Put("b", b"1")])
        revision = await store.commit([Put("a", b"2")])
        assert await store.get("a") == Row("a", b"2", revision)
        assert await store.get("b") == Row("b", b"1", first)
        await store.commit([Delete("a")])
        assert await store.get("a") is None

    async def test_list_gives_a_prefix_in_byte_order(self, store):
        keys = ["m/A", "m/B", "m/Z/x", "m/a", "m/a.b", "m/a/b", "m/~", "m0", "l", "n/a"]
        await store.commit([Put(key, b"") for key in reversed(keys)])
        page = await store.list("m/")
        assert [row.key for row in page.rows] == sorted(key for key in keys if key.startswith("m/"))
        assert len((await store.list("")).rows) == len(keys)
        assert (await store.list("x")).rows == ()

    async def test_list_goes_on_after_a_key_to_its_limit(self, store):
        await store.commit([Put(f"k{n}", b"") for n in range(7)])
        page = await store.list("k", after="k1", limit=3)
        assert [row.key for row in page.rows] == ["k2", "k3", "k4"]
        assert page.more
        page = await store.list("k", after="k4", limit=2, revision=page.revision)
        assert [row.key for row in page.rows] == ["k5", "k6"]
        assert not page.more

    async def test_a_pinned_list_does_not_see_concurrent_writes(self, store):
        await self.fill(store)
        revision = await store.revision()
        before = await everything(store)

        async def write():
            for n in range(30):
                await store.commit([Put(f"k{n % 4}", b"new"), Put(f"z{n}", b"new"), Delete(f"n{n}")])

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for _ in range(10):
                assert await everything(store, revision, page=1) == before
        assert await everything(store) != before

    async def test_every_revision_can_be_read(self, store):
        revisions = await self.fill(store)
        state: dict[str, bytes] = {}
        for commit in await collect(store, revisions[0], revisions[-1]):
            for change in commit.changes:
                if isinstance(change, Delete):
                    del state[change.key]
                else:
                    state[change.key] = change.value
            assert await everything(store, commit.revision) == state

    async def test_a_future_revision_cannot_be_listed(self, store):
        await self.fill(store)
        with pytest.raises(RevisionGone):
            await store.list("", revision=await now(store) + 1)

    # commit

    async def test_a_commit_is_one_revision(self, store):
        revision = await store.commit([Put(f"k{n:02}", b"v") for n in range(COMMIT_LIMIT)])
        assert await store.revision() == revision
        assert {row.revision for row in (await store.list("")).rows} == {revision}

    async def test_a_refused_commit_changes_nothing(self, store):
        old = await store.commit([Put("b", b"0")])
        revision = await store.commit([Put("a", b"1"), Put("b", b"1")])
        with pytest.raises(Conflict):
            await store.commit([Put("a", b"2"), Delete("b"), Put("c", b"2")], expect={"a": revision, "b": old})
        with pytest.raises(Conflict):
            await store.commit([Delete("c"), Delete("d")], expect={"a": 0})
        assert await everything(store) == {"a": b"1", "b": b"1"}
        assert await store.revision() == revision

    async def test_expecting_revision_0_means_that_the_key_must_not_exist(self, store):
        first = await store.commit([Put("a", b"1")], expect={"a": 0})
        with pytest.raises(Conflict):
            await store.commit([Put("a", b"2")], expect={"a": 0})
        await store.commit([Delete("a")], expect={"a": first})
        await store.commit([Put("a", b"3")], expect={"a": 0})

    async def test_keys_that_are_not_written_can_be_expected(self, store):
        first = await store.commit([Put("guard", b"1")])
        await store.commit([Put("a", b"1")], expect={"guard": first})
        await store.commit([Put("guard", b"2")])
        with pytest.raises(Conflict):
            await store.commit([Put("a", b"2")], expect={"guard": first})

    async def test_deleting_nothing_makes_no_revision(self, store):
        revision = await store.commit([Put("a", b"1")])
        assert await store.commit([Delete("b")]) == revision == await store.revision()
        assert await store.commit([Delete("b"), Delete("c")], expect={"b": 0}) == revision == await store.revision()
        assert await now(store) == revision
        second = await store.commit([Delete("b"), Put("a", b"2")])
        third = await store.commit([Delete("b"), Delete("a")])
        assert revision < second < third == await store.revision()
        assert [len(c.changes) for c in await collect(store, second, third)] == [1, 1]

    async def test_of_two_deletions_of_a_key_one_makes_a_revision(self, store):
        for n in range(20):
            before = await store.commit([Put("a", str(n).encode())])
            revisions = await asyncio.gather(*(store.commit([Delete("a")]) for _ in range(4)))
            assert before < revisions[0]
            assert set(revisions) == {await store.revision()}

    @pytest.mark.parametrize(
        "ops", [[], [Put(f"{n}", b"") for n in range(COMMIT_LIMIT + 1)], [Put("a", b""), Delete("a")]]
    )
    async def test_a_malformed_commit_is_a_value_error(self, store, ops):
        with pytest.raises(ValueError):
            await store.commit(ops)
        assert await store.revision() == 0

    async def test_of_two_swaps_one_wins(self, store):
        await one_wins([store, store], rounds=200)

    async def test_a_crowd_of_swaps_has_one_winner(self, store):
        await one_wins([store] * 16, rounds=5)

    @pytest.mark.parametrize("op", [Put("a", b""), Delete("a")])
    async def test_as_much_can_be_expected_as_is_promised_and_no_more(self, store, op):
        await store.commit([Put("a", b"")])
        await store.commit([op], expect={f"k{n}": 0 for n in range(EXPECT_LIMIT)})
        with pytest.raises(ValueError):
            await store.commit([op], expect={f"k{n}": 0 for n in range(EXPECT_LIMIT + 1)})

    # watch

    async def test_a_watch_can_resume_at_every_revision(self, store):
        revisions = await self.fill(store)
        commits = await collect(store, revisions[0], revisions[-1])
        assert [c.revision for c in commits] == revisions
        for n, start in enumerate(revisions):
            assert await collect(store, start, revisions[-1]) == commits[n:]

    async def test_changes_are_in_the_order_of_their_keys(self, store):
        revision = await store.commit([Put("c", b""), Put("a", b""), Put("b", b"")])
        [commit] = await collect(store, revision, revision)
        assert [change.key for change in commit.changes] == ["a", "b", "c"]

    async def test_watchers_see_every_commit_while_it_happens(self, store):
        start, count = await now(store) + 1, 60
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(next_changes(store, start, 2 * count)) for _ in range(5)]
            writers = [group.create_task(self.write_many(store, writer, count)) for writer in range(2)]
        written = sorted(revision for writer in writers for revision in writer.result())
        for watcher in watchers:
            assert watcher.result() == watchers[0].result()
            assert [c.revision for c in watcher.result()] == written

    async def write_many(self, store, writer, count):
        return [
            await store.commit([Put(f"{writer}/{n}", b"v"), Put("shared", f"{writer}/{n}".encode())])
            for n in range(count)
        ]

    async def test_whole_revisions_however_large(self, store):
        start = await now(store) + 1
        for n in range(8):
            await store.commit([Put(f"k{i:02}", str(n).encode()) for i in range(COMMIT_LIMIT)])
        assert [len(c.changes) for c in await next_changes(store, start, 8)] == [COMMIT_LIMIT] * 8

    async def test_a_silent_watch_gives_checkpoints(self, store):
        revision = await store.commit([Put("a", b"1")])
        async with asyncio.timeout(LIMIT), aclosing(store.watch(revision + 1)) as watch:
            assert await anext(watch) == Commit(revision, ())
            assert await anext(watch) == Commit(revision, ())

    async def test_a_watch_cannot_begin_beyond_the_next_revision(self, store):
        await self.fill(store)
        await nothing_from(store, await now(store) + 2)

    async def test_a_slow_reader_misses_nothing(self, store):
        first = await store.commit([Put("first", b"")])
        async with asyncio.timeout(LIMIT), aclosing(store.watch(first)) as watch:
            assert (await next_change(watch)).revision == first
            revisions = [await store.commit([Put("k", str(n).encode())]) for n in range(300)]
            assert [(await next_change(watch)).revision for _ in revisions] == revisions

    async def test_a_reader_that_is_too_slow_is_told_unless_it_was_sent_everything_before(self, store):
        first = await store.commit([Put("first", b"")])
        async with asyncio.timeout(LIMIT), aclosing(store.watch(first)) as watch:
            await next_change(watch)
            revisions = [await store.commit([Put("k", str(n).encode())]) for n in range(5)]
            await store.compact(revisions[-1])
            seen: list[int] = []
            with suppress(RevisionGone):
                while len(seen) < len(revisions):
                    seen.append((await next_change(watch)).revision)
            assert seen == revisions[: len(seen)]

    # compact

    async def test_what_is_compacted_is_gone_and_the_rest_is_there(self, store):
        revisions = await self.fill(store, 10)
        *old, oldest, following, _, _, _, last = revisions
        kept = revisions[len(old) :]
        states = {r: await everything(store, r) for r in kept}
        commits = await collect(store, following, last)
        await store.compact(oldest)
        for revision in (-1, 0, *old):
            with pytest.raises(RevisionGone):
                await store.list("", revision=revision)
            await nothing_from(store, revision)
        assert {r: await everything(store, r) for r in kept} == states
        assert await collect(store, following, last) == commits
        assert (await collect(store, oldest, last))[1:] == commits

    async def test_compacting_again_does_nothing_and_the_future_cannot_be_compacted(self, store):
        revisions = await self.fill(store, 6)
        for revision in (revisions[4], revisions[4], revisions[1], 0):
            await store.compact(revision)
        assert await everything(store, revisions[4])
        with pytest.raises(RevisionGone):
            await store.compact(await now(store) + 1)

    async def test_deleted_keys_stay_deleted_after_compaction(self, store):
        await store.commit([Put("a", b"1"), Put("b", b"1")])
        await store.commit([Put("a", b"2")])
        await store.commit([Delete("a")])
        revision = await store.commit([Put("c", b"1")])
        await store.compact(revision)
        assert await everything(store) == {"b": b"1", "c": b"1"}

    # leases

    async def test_a_lease_keeps_its_keys_while_there_are_signs_of_life(self, stores, store):
        lease = await store.grant(10 * stores.second)
        revision = await store.commit([Put("a", b"1", lease)])
        for _ in range(4):
            await stores.pass_time(6)
            assert await store.keep_alive(lease)
        assert await store.get("a") == Row("a", b"1", revision, lease)
        assert await store.revision() == revision

    async def test_a_silent_lease_ends_and_takes_its_keys_along(self, stores, store):
        lease, other = await store.grant(10 * stores.second), await store.grant(60 * stores.second)
        await store.commit([Put("a", b"1", lease), Put("b", b"1", lease), Put("c", b"1", other), Put("d", b"1")])
        revision = await store.revision()
        await stores.pass_time(11)
        await self.gone(stores, store, "a")
        [commit] = await next_changes(store, revision + 1)
        assert commit.changes == (Delete("a"), Delete("b"))
        assert await everything(store) == {"c": b"1", "d": b"1"}
        assert not await store.keep_alive(lease)
        with pytest.raises(Conflict):
            await store.commit([Put("e", b"1", lease)])

    async def test_a_revoked_lease_takes_its_keys_along(self, store):
        lease = await store.grant(10)
        revision = await store.commit([Put(f"k{n:02}", b"1", lease) for n in range(COMMIT_LIMIT)])
        await store.revoke(lease)
        assert await everything(store) == {}
        [commit] = await next_changes(store, revision + 1)
        assert len(commit.changes) == COMMIT_LIMIT
        assert commit.revision <= await store.revision()
        assert not await store.keep_alive(lease)
        await store.revoke(lease)

    async def test_a_lease_with_many_keys_ends_in_several_commits(self, store):
        lease = await store.grant(10)
        for part in range(3):
            await store.commit([Put(f"{part}/{n}", b"1", lease) for n in range(COMMIT_LIMIT)])
        await store.commit([Put("kept", b"1")])
        await store.revoke(lease)
        assert await everything(store) == {"kept": b"1"}

    async def test_a_key_put_without_the_lease_or_with_another_stays(self, store):
        lease, other = await store.grant(10), await store.grant(10)
        await store.commit([Put("a", b"1", lease), Put("b", b"1", lease), Put("c", b"1", lease)])
        await store.commit([Put("a", b"2"), Put("b", b"2", other)])
        await store.revoke(lease)
        assert await everything(store) == {"a": b"2", "b": b"2"}

    async def test_a_lease_of_nobody_is_dead(self, store):
        assert not await store.keep_alive(4711)
        with pytest.raises(Conflict):
            await store.commit([Put("a", b"1", 4711)])
        await store.revoke(4711)

    async def test_lease_ids_are_not_used_twice(self, stores):
        seen = set()
        for _ in range(3):
            async with stores.open() as store:
                lease = await store.grant(10)
                assert lease not in seen
                seen.add(lease)
                await store.revoke(lease)

    async def test_leases_survive_a_restart_with_a_full_ttl(self, stores):
        async with stores.open() as store:
            lease = await store.grant(10 * stores.second)
            await store.commit([Put("a", b"1", lease)])
        await stores.away(15)
        async with stores.open() as store:
            assert await store.get("a") is not None
            await stores.pass_time(6)
            assert await store.keep_alive(lease)
            await stores.pass_time(11)
            await self.gone(stores, store, "a")

    async def test_leases_make_no_revision(self, store):
        lease = await store.grant(10)
        await store.keep_alive(lease)
        await store.revoke(lease)
        assert await store.revision() == 0
