"""The reflector's copy equals the registry's truth, wherever and however its stream breaks."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from stackmesh.backoff import Backoff
from stackmesh.errors import RegistryUnreachable, RevisionGone
from stackmesh.reflector import Listed, Reflector, RegistrySource
from stackmesh.registry.v1 import watch_service_pb2 as pb
from stackmesh.resources import KINDS, earlier, handover_of
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes.watch_server import WatchServer
from tests.ports import free_port
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
async def following(server, kind=Reflector, source=RegistrySource, **options):
    view = Copy()
    async with server.serving() as address, internal_channel(address) as channel:
        reflector = kind(source(channel), view, **options)
        async with background(reflector.run(), "reflector"):
            yield reflector, view


async def in_step(reflector, server):
    async with asyncio.timeout(10):
        await reflector.reached(server.revision)


class Away:
    """A source that nothing answers at, for one reason and then for another."""

    def __init__(self):
        self.why = "refused"
        self.lists = 0

    async def list(self):
        self.lists += 1
        raise RegistryUnreachable(self.why)

    async def watch(self, start_revision, store_id):
        raise NotImplementedError
        yield


async def warnings_of(tries, caplog, **options):
    """What is said of so many tries, and of as many more with another reason."""
    source = Away()
    with caplog.at_level(logging.WARNING, "stackmesh.reflector"):
        async with background(Reflector(source, Copy(), patience=0.001, **options).run(), "reflector"):
            await until(lambda: source.lists >= tries)
            source.why = "no route"
            await until(lambda: source.lists >= 2 * tries)
    return [record.message for record in caplog.records]


async def test_what_goes_on_failing_is_said_once_for_each_reason(caplog):
    said = await warnings_of(20, caplog)
    assert ["refused" in said[0], "no route" in said[1]] == [True, True]
    assert len(said) == 2


async def test_it_is_said_again_after_a_while(caplog):
    assert len(await warnings_of(20, caplog, remind_after=0.0)) >= 38


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
        self._patient = self._hasty = Backoff(0.001, 0.001)


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


async def check_told_to_list_again(server, kind):
    """The watch of a reflector that was well is cut, and what it missed is compacted: it lists within 2 s."""
    server.put("a")
    async with following(server, kind) as (reflector, view):
        await in_step(reflector, server)
        await until(lambda: server.watches)
        server.put("b")
        server.delete("a")
        server.compacted = server.revision
        server.cut_after = 0
        await until(lambda: len(server.watches) >= 2)
        told = time.monotonic()
        await until(lambda: view.replaced >= 2, 12)
        assert time.monotonic() - told < 2
        assert view.entries == server.entries()


class ListsWhenItLikes(Reflector):
    """The planted bug: waits as for a registry that says nothing."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._hasty = Backoff(first=10.0, limit=10.0)

    @property
    def _answered(self):
        return False

    @_answered.setter
    def _answered(self, value):
        pass


async def test_a_compacted_revision_means_a_new_list_at_once(server):
    await check_told_to_list_again(server, Reflector)


async def test_that_check_notices_a_reflector_that_takes_its_time(server):
    with pytest.raises((AssertionError, TimeoutError)):
        await check_told_to_list_again(server, ListsWhenItLikes)


async def test_who_is_always_told_to_list_again_does_not_ask_without_a_pause(server):
    server.put("a")
    server.compacted = 10**6
    began = time.monotonic()
    async with following(server):
        await until(lambda: server.lists >= 5)
    assert time.monotonic() - began > 0.05 + 0.1 + 0.2 + 0.25


class Untrue:
    """A source whose watch says something, for as long as it is told to, and then that it is gone."""

    def __init__(self, good_for=0.0):
        self.good_for = good_for
        self.lists = 0

    async def list(self):
        self.lists += 1
        return Listed((), 5, "one")

    async def watch(self, start_revision, store_id):
        began = time.monotonic()
        yield pb.WatchResponse(revision=start_revision - 1)
        while time.monotonic() - began < self.good_for:
            await asyncio.sleep(0)
            yield pb.WatchResponse(revision=start_revision - 1)
        raise RevisionGone("it fell out of the history again")


async def check_pauses(kind):
    """It is told to list again after each first answer: at once at first, then after 0.1 s at most, 0.2, 0.4, 0.5."""
    source, began = Untrue(), time.monotonic()
    async with background(kind(source, Copy()).run(), "reflector"):
        await until(lambda: source.lists >= 6)
    assert time.monotonic() - began > (0.1 + 0.2 + 0.4 + 0.5) / 2


class NeverWaits(Reflector):
    """The planted bug: an answer is taken for health."""

    @property
    def _well(self):
        return True

    @_well.setter
    def _well(self, value):
        pass


async def test_who_is_told_to_list_again_after_each_answer_does_so_with_a_pause():
    await check_pauses(Reflector)


async def test_control_lists_without_a_pause_are_noticed():
    with pytest.raises(AssertionError):
        await check_pauses(NeverWaits)


async def test_once_a_watch_has_held_a_new_list_is_made_at_once_again():
    class Slow(Reflector):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._hasty = Backoff(10.0, 10.0)

    source = Untrue(good_for=0.05)
    async with background(Slow(source, Copy(), well_after=0.01).run(), "reflector"):
        await until(lambda: source.lists >= 4, 5)


async def check_turned_back(server, kind):
    """An older copy of the store is put back under a reflector that watches: its view is the older one, unmixed."""
    for name in "abcd":
        server.put(name)
    async with following(server, kind) as (reflector, view):
        await in_step(reflector, server)
        server.turn_back(2)
        await until(lambda: view.replaced == 2, 2)
        assert view.entries == server.entries()
        assert reflector.revision == 2


class Forgiving(Reflector):
    """The planted bug: takes what is older than what it holds."""

    async def _watch(self, revision):
        await super()._watch(-1)


async def test_a_falling_revision_means_a_new_list(server):
    await check_turned_back(server, Quick)


async def test_that_check_notices_a_reflector_that_goes_back_in_time():
    server = WatchServer()
    source = TurnedBack(server)
    with pytest.raises((AssertionError, TimeoutError)):
        await check_turned_back_source(source, Forgiving)


class TurnedBack:
    """A source that tells an older revision than the list had, and then nothing."""

    def __init__(self, server):
        self.server = server
        self.lists = 0

    async def list(self):
        self.lists += 1
        return Listed((), 9 if self.lists == 1 else 3, "one")

    async def watch(self, start_revision, store_id):
        yield pb.WatchResponse(revision=3)
        await asyncio.Event().wait()


async def check_turned_back_source(source, kind):
    reflector = kind(source, Copy())
    async with background(reflector.run(), "reflector"):
        await until(lambda: source.lists == 2, 2)


async def test_an_answer_older_than_the_list_means_a_new_list(server):
    await check_turned_back_source(TurnedBack(server), Reflector)


async def test_a_list_whose_revision_goes_half_way_starts_again(server):
    for name in "abcdefgh":
        server.put(name)
    server.lost_pages = 2
    async with following(server) as (reflector, view):
        await in_step(reflector, server)
        assert server.lists == 3
        assert view.entries == server.entries()


async def test_what_is_the_resources_own_can_be_left_out(server):
    own = {kind: kind.message(identifier="m", provider_id="p") for kind in KINDS.values()}
    for kind, row in own.items():
        getattr(row, kind.payload).SetInParent()
        server._write(pb.Entry(key=f"{kind.word}/m", **{kind.word: row}))
        server._write(pb.Entry(key=f"handover/{kind.word}/m", handover=handover_of(row)))
    server._write(pb.Entry(key="model/gone"))
    async with server.serving() as address, internal_channel(address) as channel:
        whole, bare = RegistrySource(channel), RegistrySource(channel, bare=True)
        assert await told(whole, server) == [list(own.values()) * 2] * 2
        stripped = [kind.message(identifier="m", provider_id="p") for kind in own]
        assert await told(bare, server) == [stripped * 2] * 2


async def told(source, server):
    """What a list says of the resources, and of what they were before; and what a watch says of them."""
    listed = (await source.list()).entries
    watched = []
    async with aclosing(source.watch(1, "one")) as responses:
        async for response in responses:
            watched += [change.entry for change in response.changes]
            if response.revision == server.revision:
                break
    assert watched[-1] == pb.Entry(key="model/gone")
    return [
        [getattr(entry, kind.word) for kind in KINDS.values() for entry in entries if entry.HasField(kind.word)]
        + [
            earlier(entry.handover)
            for kind in KINDS.values()
            for entry in entries
            if entry.handover.HasField(kind.word)
        ]
        for entries in (listed, watched)
    ]


async def check_another_store(server, source=RegistrySource, seconds=10):
    """Another store takes the place of one, and nothing but its name tells: it has come further already."""
    server.put("a")
    server.put("b")
    async with following(server, Quick, source) as (reflector, view):
        await in_step(reflector, server)
        assert await reached(reflector, 2, "one")
        assert not await reached(reflector, 1, "two")
        server.store_id, server.log = "two", []
        for name in "cdefgh":
            server.put(name)
        server.cut_after = 0
        await until(lambda: view.entries == server.entries(), seconds)
        assert reflector.revision == 6
        assert await reached(reflector, 6, "two")
        assert not await reached(reflector, 1, "one")


class AnyStore(RegistrySource):
    """The planted bug: does not say of which store it had that revision."""

    def watch(self, start_revision, store_id):
        return super().watch(start_revision, "")


async def test_another_store_means_a_new_list(server):
    await check_another_store(server)


async def test_that_check_notices_a_reflector_that_goes_on_with_another_store(server):
    with pytest.raises(TimeoutError):
        await check_another_store(server, AnyStore, 1)


async def reached(reflector, revision, store_id):
    """Whether it says at once that it holds this."""
    try:
        async with asyncio.timeout(0.01):
            await reflector.reached(revision, store_id)
    except TimeoutError:
        return False
    return True


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


async def test_it_says_when_the_registry_was_back_after_a_long_silence(server):
    server.put("a")
    server.checkpoint_seconds = 0.1
    async with following(server, Quick, silence=0.2, stale_after=0.3) as (reflector, _):
        await in_step(reflector, server)
        assert reflector.back_for == float("inf")
        server.silent = True
        await until(lambda: reflector.age > 0.4)
        server.silent = False
        server.put("b")
        await in_step(reflector, server)
        assert reflector.back_for < 0.4


async def test_a_view_that_fails_is_filled_anew(server, caplog):
    class Fragile(Copy):
        def apply(self, changes, revision):
            if revision == 2:
                raise KeyError("a bug")
            super().apply(changes, revision)

    server.put("a")
    view = Fragile()
    async with server.serving() as address, internal_channel(address) as channel:
        reflector = Reflector(RegistrySource(channel), view)
        async with background(reflector.run(), "reflector"):
            await in_step(reflector, server)
            server.put("b")
            await until(lambda: view.replaced == 2)
            server.put("c")
            await in_step(reflector, server)
    assert sorted(view.entries) == ["model/a", "model/b", "model/c"]
    assert "the view failed" in caplog.text


class Poisoned(Copy):
    """Takes a list, or does not, and no change."""

    def __init__(self, takes_lists):
        super().__init__()
        self.takes_lists = takes_lists
        self.tries = 0

    def replace(self, entries, revision):
        self.tries += 1
        if not self.takes_lists:
            raise KeyError("poison")

    def apply(self, changes, revision):
        raise KeyError("poison")


class Busy:
    """A source with one change after each list."""

    async def list(self):
        return Listed((), 5, "one")

    async def watch(self, start_revision, store_id):
        change = pb.Change(entry=pb.Entry(key="model/m"), revision=start_revision)
        yield pb.WatchResponse(revision=start_revision, changes=[change])
        await asyncio.Event().wait()


async def check_a_view_that_keeps_failing(kind, takes_lists, caplog):
    """It is filled anew ever more rarely, told once, and not said to be in step."""
    view, began = Poisoned(takes_lists), time.monotonic()
    reflector = kind(Busy(), view)
    with caplog.at_level(logging.WARNING, "stackmesh.reflector"):
        async with background(reflector.run(), "reflector"):
            await until(lambda: view.tries >= 5)
            assert reflector.stale != takes_lists  # what has taken a list had all there was
    assert time.monotonic() - began > (0.1 + 0.2 + 0.4 + 0.8) / 2
    (said,) = caplog.records
    assert "the view failed: KeyError('poison')" in said.message
    assert said.exc_info


class HearsTooSoon(Reflector):
    """The planted bugs: what was heard counts as taken, and whoever answers is asked again soon."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._mending = Backoff(0.001, 0.001)

    def _hear(self):
        super()._hear()
        self._heard = time.monotonic()


@pytest.mark.parametrize("takes_lists", [False, True])
async def test_a_view_that_keeps_failing_is_filled_anew_ever_more_rarely(takes_lists, caplog):
    await check_a_view_that_keeps_failing(Reflector, takes_lists, caplog)


@pytest.mark.parametrize("takes_lists", [False, True])
async def test_control_lists_for_a_view_that_takes_none_are_noticed(takes_lists, caplog):
    with pytest.raises(AssertionError):
        await check_a_view_that_keeps_failing(HearsTooSoon, takes_lists, caplog)


async def test_a_view_may_ask_whether_the_registry_was_away():
    """When it is told what came of it: the gateway's grace does."""
    asked = []

    class Asking(Copy):
        def apply(self, changes, revision):
            asked.append(reflector.back_for)

    reflector = Reflector(Busy(), Asking(), stale_after=-1.0)
    async with background(reflector.run(), "reflector"):
        await until(lambda: asked)
    assert asked[0] < 5


async def test_waits_for_a_registry_that_is_not_there_yet(server):
    view = Copy()
    async with server.serving() as address:
        pass  # the port is free again
    async with internal_channel(address) as channel:
        reflector = Quick(RegistrySource(channel), view)
        assert reflector.stale
        assert reflector.revision is None
        async with background(reflector.run(), "reflector"):
            server.put("a")
            async with server.serving(address):
                await in_step(reflector, server)
                assert view.entries == server.entries()


@pytest.mark.slow  # the outage has to be so long that all wait as long as they ever do
@pytest.mark.timeout(120)
async def test_a_hundred_that_lost_the_registry_come_back_over_some_seconds(server):
    assert await spread(server, Reflector) >= 5


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_control_a_hundred_in_step_are_noticed(server):
    class InStep(Reflector):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._patient = Backoff(first=1.0, limit=1.0)

    assert await spread(server, InStep) < 5


async def spread(server, kind):
    """A registry of 1,000 models is lost for 25 s: the seconds from the first of 100 reflectors back to the last."""
    for number in range(1000):
        server.put(f"m{number}")
    server.page_size = 1000
    address, views = f"127.0.0.1:{free_port()}", [Copy() for _ in range(100)]
    async with AsyncExitStack() as stack:
        outage = await stack.enter_async_context(AsyncExitStack())
        await outage.enter_async_context(server.serving(address))
        reflectors = []
        for view in views:
            channel = await stack.enter_async_context(internal_channel(address))
            reflectors.append(kind(RegistrySource(channel), view))
            await stack.enter_async_context(background(reflectors[-1].run(), "reflector"))
        await until(lambda: len(server.watches) == 100, 30)
        await outage.aclose()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 25, 30)
        server.watches.clear()
        server.put("new")
        server.compacted = server.revision  # all have to list
        async with server.serving(address):
            back, times = time.monotonic(), {}

            def all_back():
                now = time.monotonic()
                for number, reflector in enumerate(reflectors):
                    if reflector.revision == server.revision:
                        times.setdefault(number, now)
                return len(times) == 100

            await until(all_back, 30)
            assert all(view.entries == server.entries() for view in views)
            assert max(times.values()) - back < 30
            return max(times.values()) - min(times.values())
