"""The way from a registry to who reflects it, cut anywhere in a replay: nothing is lost, repeated or out of order."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from registry_service import records
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Put
from stackmesh.backoff import Backoff
from stackmesh.reflector import Listed, Reflector, RegistrySource
from stackmesh.registry.v1 import resources_pb2
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.integration.registry.client import registry_on
from tests.scale import full

COMMITS = 1500
"""Of two events each."""
SECONDS = 30.0


class FromTheStart(RegistrySource):
    """What somebody reads who had listed before anything happened, and was away since."""

    def __init__(self, channel, listed):
        super().__init__(channel)
        self.listed = listed
        self.lists = 0

    async def list(self):
        self.lists += 1
        return self.listed


class Log:
    """A view that writes down what it is told."""

    def __init__(self):
        self.events = []

    def replace(self, entries, revision):
        self.events.clear()

    def apply(self, changes, revision):
        self.events += [(change.revision, change.entry.key) for change in changes]


class Quick(Reflector):
    """Does not wait between two watches."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._patient = self._hasty = Backoff(0.01, 0.01)


class FromTheHead(Quick):
    """The planted bug: goes on where the registry is, as a list or the header of an answer would have it."""

    async def _watch(self, revision):
        resumed = self._revision > self._source.listed.revision
        await super()._watch((await RegistrySource.list(self._source)).revision if resumed else revision)


class FromTheSame(Quick):
    """The planted bug: asks for the last revision again."""

    async def _watch(self, revision):
        await super()._watch(max(self._source.listed.revision, revision - 1))


def model(name, size):
    row = resources_pb2.Model(identifier=name, provider_id="p", provider_resource_id=name)
    row.metadata["note"] = "x" * size
    return row


async def fill(store, size):
    """3,000 events of models of so many bytes, and with which revision each came."""
    events = []
    for n in range(COMMITS):
        rows = [model(f"again-{n % 50}", size), model(f"new-{n}", size)]  # as they are told: by key
        revision = await store.commit([Put(records.key_of(row), records.encode(row)) for row in rows])
        events += [(revision, records.key_of(row)) for row in rows]
    return events


@asynccontextmanager
async def of_the_ring(kind, place):
    """A registry that saw 3,000 events happen: its address, what was listed before them, and they themselves.

    It tells many at once, so they are large.
    """
    store = kind(place)
    async with registry_on(store) as registry, internal_channel(registry.address) as channel:
        listed = await RegistrySource(channel).list()
        yield registry.address, listed, await fill(store, 2000)


@asynccontextmanager
async def of_the_store(kind, place):
    """The same of one that reads from its store what came before its start."""
    async with kind(place) as store:
        events = await fill(store, 0)
    store = kind(place)
    async with registry_on(store) as registry:
        yield registry.address, Listed((), events[0][0] - 1, await store.store_id()), events


async def follow(channel, listed, events, kind):
    """What a reflector tells its view until it has come to the last event, with one list."""
    source, view = FromTheStart(channel, listed), Log()
    reflector = kind(source, view)
    async with background(reflector.run(), "reflector"), asyncio.timeout(SECONDS):
        await reflector.reached(events[-1][0])
    assert source.lists == 1
    return view.events


def check(told, events):
    lost = len(set(events) - set(told))
    assert lost == 0, f"{lost} are lost"
    again = len(told) - len(events)
    assert again == 0, f"{again} were told again"
    assert told == events


async def whole(replay, cuts, kind=Quick):
    """The replay arrives whole, cut after so many different shares of its bytes."""
    async with replay as (address, listed, events), TcpProxy(address) as proxy:
        async with internal_channel(proxy.address) as channel:
            before = proxy.received
            check(await follow(channel, listed, events, kind), events)
            size = proxy.received - before
            for cut in range(cuts):
                accepted = proxy.accepted
                proxy.cut_after(size * (cut + 1) // (cuts + 1))
                check(await follow(channel, listed, events, kind), events)
                assert proxy.accepted > accepted, "it was not cut at all"


@asynccontextmanager
async def place_of(kind, folder):
    """Where such a store can be."""
    if kind is SqliteStore:
        yield folder / "r.db"
        return
    async with etcd(folder) as member:
        yield parse(f"etcd://{member.address}/mesh")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("replay", [of_the_ring, of_the_store])
@pytest.mark.parametrize("kind", [SqliteStore, EtcdStore])
async def test_a_cut_replay_loses_and_repeats_nothing(tmp_path, kind, replay):
    async with place_of(kind, tmp_path) as place:
        await whole(replay(kind, place), full(50))


@pytest.mark.parametrize(
    ("planted", "found", "replay"),
    [(FromTheHead, "are lost", of_the_store), (FromTheSame, "were told again", of_the_ring)],
)
async def test_that_check_finds_a_reflector_that_goes_on_somewhere_else(tmp_path, planted, found, replay):
    with pytest.raises(AssertionError, match=found):
        await whole(replay(SqliteStore, tmp_path / "r.db"), 1, planted)
