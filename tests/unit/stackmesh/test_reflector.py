"""The reflector's copy equals the registry's truth, wherever and however its stream breaks."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from stackmesh.reflector import Reflector
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes.watch_server import WatchServer
from tests.waiting import until


class Copy:
    """A view that remembers what it was told."""

    def __init__(self):
        self.entries = {}
        self.applied = []  # every revision, as often as it came
        self.replaced = 0

    def replace(self, entries, revision):
        self.entries = {entry.key: entry for entry in entries}
        self.replaced += 1

    def apply(self, changes, revision):
        for change in changes:
            self.applied.append(change.revision)
            if change.entry.WhichOneof("value"):
                self.entries[change.entry.key] = change.entry
            else:
                self.entries.pop(change.entry.key, None)


@pytest.fixture
def server():
    return WatchServer()


@asynccontextmanager
async def following(server, kind=Reflector, **options):
    view = Copy()
    async with server.serving() as address, internal_channel(address) as channel:
        reflector = kind(channel, view, **options)
        async with background(reflector.run(), "reflector"):
            yield reflector, view


async def in_step(reflector, server):
    async with asyncio.timeout(10):
        await reflector.reached(server.revision)


async def test_lists_in_pages_then_follows(server):
    for name in "abcdefgh":
        server.put(name)
    async with following(server) as (reflector, view):
        await in_step(reflector, server)
        assert view.entries == server.entries()
        server.put("i")
        server.delete("a")
        await in_step(reflector, server)
        assert view.entries == server.entries()
        assert (view.replaced, view.applied) == (1, [9, 10])
        assert not reflector.stale


async def check_nothing_lost_or_repeated(server, kind):
    """A replay of 40 revisions over a watch that is cut after every single one or two of them."""
    server.put("first")
    async with following(server, kind) as (reflector, view):
        await in_step(reflector, server)
        for cut_after in (1, 2):
            server.cut_after = cut_after
            for number in range(20):
                server.put(f"m{number % 7}", provider=str(number))
            await in_step(reflector, server)
        assert view.applied == list(range(2, server.revision + 1))
        assert view.entries == server.entries()
        assert view.replaced == 1


class Quick(Reflector):
    """Does not wait between two watches."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._backoff._first = self._backoff._limit = self._backoff._next = 0.001


class ResumesOneLate(Quick):
    """The planted bug: takes a header's revision, which may be ahead of the events, for the last one seen."""

    async def _watch(self, revision):
        await super()._watch(min(revision + 1, self.ahead()) if self._view.applied else revision)

    def ahead(self):
        return self._view.applied[-1] + 1


async def test_a_watch_cut_anywhere_loses_and_repeats_nothing(server):
    await check_nothing_lost_or_repeated(server, Quick)


async def test_that_check_notices_a_reflector_that_resumes_too_late(server):
    with pytest.raises((AssertionError, TimeoutError)):
        await check_nothing_lost_or_repeated(server, ResumesOneLate)


async def test_a_compacted_revision_means_a_new_list(server):
    server.put("a")
    async with following(server, Quick) as (reflector, view):
        await in_step(reflector, server)
        server.cut_after = 0
        server.put("b")
        server.delete("a")
        server.compacted = server.revision
        await until(lambda: view.replaced >= 2)
        assert view.entries == server.entries()


async def test_another_store_means_a_new_list(server):
    server.put("a")
    server.put("b")
    async with following(server, Quick) as (reflector, view):
        await in_step(reflector, server)
        server.store_id, server.log = "two", []
        server.put("c")
        server.cut_after = 0
        server._moved.set()
        await until(lambda: view.entries == server.entries())
        assert reflector.revision == 1


async def test_a_silent_watch_is_taken_for_dead(server):
    server.put("a")
    async with following(server, Quick, silence=0.2) as (reflector, view):
        await in_step(reflector, server)
        server.silent = True
        await until(lambda: len(server.watches) >= 3)
        server.silent = False
        server.put("b")
        await in_step(reflector, server)
        assert view.entries == server.entries()


async def test_waits_for_a_registry_that_is_not_there_yet(server):
    view = Copy()
    async with server.serving() as address:
        pass  # the port is free again
    async with internal_channel(address) as channel:
        reflector = Quick(channel, view)
        assert reflector.stale
        assert reflector.revision is None
        async with background(reflector.run(), "reflector"):
            server.put("a")
            async with server.serving(address):
                await in_step(reflector, server)
                assert view.entries == server.entries()
