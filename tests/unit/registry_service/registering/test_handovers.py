"""What a name stood for stays beside it until what it stands for now has been served for a while."""

import pytest

from registry_service import records
from registry_service.registering.handovers import Handovers
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS, earlier, kind_of
from stackmesh.tasks import background
from tests.fakes import instance as fakes
from tests.fakes.instance import FakeProvider
from tests.unit.registry_service.parts import parts_of
from tests.waiting import until

LINGER = 10.0
KIND = kind_of(pb.Model())


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


class Bench:
    """A registry in which "mine" is registered as `old` of a, with what changes it."""

    def __init__(self, parts, instance):
        self.parts = parts
        self.instance = instance
        self.clock = Clock()
        self.handovers = Handovers(parts.store, parts.mirror, linger=LINGER, look=0.01, clock=self.clock)

    async def register(self):
        return await self.parts.registrations.register(
            pb.Model(identifier="mine", provider_id="a", provider_resource_id="old")
        )

    async def update(self, provider_id, own):
        row = (await self.parts.known()).resource(KIND, "mine")
        asked = pb.Model(identifier="mine", provider_id=provider_id, provider_resource_id=own)
        return await self.parts.registrations.update(asked, row.revision)

    async def serve(self, provider_id, *names):
        """What a provider serves from now on, of the names that it hosts."""
        provider = self.instance.providers[provider_id]
        report = provider.report(provider_id)
        del report.provider_resource_ids[:]
        report.provider_resource_ids.extend(names)
        provider.report = lambda *_: report
        await self.parts.say(self.instance)

    async def was(self):
        """What calls go to until what "mine" stands for is served; None if there is no such thing."""
        there = (await self.parts.known()).handover(KIND, "mine")
        return there and (earlier(there).provider_id, earlier(there).provider_resource_id)

    async def ended(self, after=0.0):
        """Whether it is over after some seconds more."""
        self.clock.now += after
        await self.handovers.end(await self.parts.known())
        return await self.was() is None


@pytest.fixture
async def bench(tmp_path):
    hosts = {name: FakeProvider({"old": "old", "new": "new", "newer": "newer"}) for name in ("a", "b")}
    async with SqliteStore(tmp_path / "r.db") as store, parts_of(store) as parts, fakes.running(hosts) as instance:
        bench = Bench(parts, instance)
        await bench.serve("a", "old")
        await bench.serve("b")
        await bench.register()
        yield bench


async def test_it_is_written_with_the_update_and_nothing_between(bench):
    before = await bench.parts.store.revision()
    row = await bench.update("b", "new")
    assert row.revision == before + 1 == await bench.parts.store.revision()
    assert await bench.was() == ("a", "old")


async def test_it_stays_while_the_new_is_not_served_and_a_while_longer(bench):
    await bench.update("b", "new")
    assert not await bench.ended(after=1000.0)
    await bench.serve("b", "new")
    assert not await bench.ended()
    assert not await bench.ended(after=LINGER - 1)
    assert await bench.ended(after=1.0)
    assert (await bench.parts.known()).resource(KIND, "mine").provider_resource_id == "new"


async def test_the_while_begins_anew_when_the_new_is_lost_again(bench):
    await bench.update("b", "new")
    await bench.serve("b", "new")
    assert not await bench.ended(after=LINGER - 1)
    await bench.serve("b")
    assert not await bench.ended(after=LINGER)
    await bench.serve("b", "new")
    assert not await bench.ended(after=LINGER)
    assert await bench.ended(after=LINGER)


async def test_between_what_is_served_it_is_handed_over_too(bench):
    """A gateway may be behind, so what it calls is kept as long as it may be."""
    await bench.serve("b", "new")
    await bench.update("b", "new")
    assert await bench.was() == ("a", "old")
    assert not await bench.ended()
    assert await bench.ended(after=LINGER)


async def test_what_was_never_served_is_not_kept_and_what_was_before_it_is(bench):
    await bench.update("b", "new")
    await bench.update("b", "newer")
    assert await bench.was() == ("a", "old")
    await bench.serve("a")
    await bench.update("a", "new")
    assert await bench.was() == ("a", "old")


async def test_back_to_what_it_was_ends_it(bench):
    await bench.update("b", "new")
    await bench.update("a", "old")
    assert await bench.was() is None


async def test_there_and_back_between_what_is_served_keeps_the_last(bench):
    await bench.serve("b", "new")
    await bench.update("b", "new")
    await bench.update("a", "old")
    assert await bench.was() == ("b", "new")


async def test_what_is_not_served_when_it_is_updated_is_not_kept(bench):
    await bench.serve("a")
    await bench.update("b", "new")
    assert await bench.was() is None


async def test_metadata_alone_hands_nothing_over(bench):
    row = (await bench.parts.known()).resource(KIND, "mine")
    asked = pb.Model(identifier="mine")
    asked.metadata["k"] = 1
    await bench.parts.registrations.update(asked, row.revision)
    assert await bench.was() is None


async def test_unregistering_removes_both_in_one_write(bench):
    await bench.update("b", "new")
    before = await bench.parts.store.revision()
    assert await bench.parts.registrations.unregister(KIND, "mine") == before + 1
    for prefix in ("handover/", "model/"):
        assert (await bench.parts.store.list(prefix)).rows == ()


async def test_one_without_its_name_is_ended(bench):
    await bench.update("b", "new")
    row = (await bench.parts.known()).resource(KIND, "mine")
    await bench.parts.store.commit([Delete(records.key_of(row))])
    assert await bench.ended()


async def test_an_update_meanwhile_is_not_undone(bench):
    """It was over, as far as was known then."""
    await bench.serve("b", "new")
    await bench.update("b", "new")
    known = await bench.parts.known()
    await bench.handovers.end(known)
    await bench.serve("a")
    await bench.update("a", "newer")
    bench.clock.now += LINGER
    await bench.handovers.end(known)
    assert await bench.was() == ("b", "new")


async def test_it_is_done_by_whoever_runs(bench):
    async with background(bench.handovers.run(), "handovers"):
        await bench.update("b", "new")
        await bench.serve("b", "new")
        assert await bench.was() == ("a", "old")

        async def over():
            bench.clock.now += 1.0
            return await bench.was() is None

        await until(over)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.word)
def test_a_handover_is_kept_under_its_names_type_and_name(kind):
    handover = pb.Handover(**{kind.word: kind.message(identifier="a/b", provider_id="p")})
    assert records.key_of(handover) == f"handover/{kind.word}/a/b"
    assert records.provider_of(handover) == "p"
