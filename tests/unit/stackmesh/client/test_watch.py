"""The client's watch over real channels: what a reader is told equals what has happened."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import grpc
import pytest

from stackmesh import errors
from stackmesh.client import Client
from stackmesh.client.watch import Feed, changes, wanted
from stackmesh.reflector import RegistrySource
from stackmesh.registry.v1.resources_pb2 import Model, Shield
from stackmesh.transport import CLIENT_CHANNEL
from tests.fakes.mesh_api import ScriptedInference, serving
from tests.fakes.registry_api import FakeRegistry
from tests.ports import free_port
from tests.waiting import until


@pytest.fixture
def registry():
    return FakeRegistry()


@pytest.fixture
async def client(registry):
    async with serving(ScriptedInference(), registry) as address, Client(address) as client:
        yield client


async def take(told, count):
    async with asyncio.timeout(10):
        return [await anext(told) for _ in range(count)]


def brief(changes):
    return [f"{change.what} {change.kind}/{change.name}" for change in changes]


async def test_what_there_is_then_what_changes(client, registry):
    for name in "abcd":
        registry.put(Model(identifier=name))
    async with aclosing(client.watch(kinds=["model"])) as told:
        first = await take(told, 4)
        assert brief(first) == [f"added model/{name}" for name in "abcd"]
        assert all(change.initial for change in first)
        registry.put(Shield(identifier="s"))
        registry.put(Model(identifier="a", provider_id="p"))
        registry.delete("model", "b")
        registry.put(Model(identifier="b"))
        then = await take(told, 3)
        assert brief(then) == ["updated model/a", "removed model/b", "added model/b"]
        assert then[0].record.provider_id == "p"
        assert then[1].record.identifier == "b"
        assert [change.revision for change in then] == [registry.revision - 2, registry.revision - 1, registry.revision]
        assert not any(change.initial for change in then)


async def test_every_kind_when_none_is_named(client, registry):
    registry.start("i-1", "127.0.0.1:5")
    async with aclosing(client.watch()) as told:
        taken = await take(told, len(registry.rows))
    assert {change.kind for change in taken} == {"provider", "instance"}
    assert "added provider/inference/local" in brief(taken)


async def test_it_goes_on_from_where_a_reader_was(client, registry):
    for name in "abc":
        registry.put(Model(identifier=name))
    at = registry.revision
    registry.delete("model", "a")
    async with aclosing(client.watch(kinds=["model"], start_revision=at)) as told:
        taken = await take(told, 2)
        assert brief(taken) == ["added model/c", "removed model/a"]
        assert not any(change.initial for change in taken)


async def test_a_start_that_is_gone_is_told(client, registry):
    registry.put(Model(identifier="a"))
    registry.compacted = registry.revision
    with pytest.raises(errors.RevisionGone):
        await take(client.watch(start_revision=2), 1)
    for start in (0, 2**63):
        with pytest.raises(errors.InvalidField):
            await take(client.watch(start_revision=start), 1)


@pytest.mark.parametrize("start", [None, 3])
async def test_a_gateway_that_is_not_there_is_unavailable(start):
    async with Client("127.0.0.1:1") as client:
        with pytest.raises(errors.Unavailable):
            await take(client.watch(start_revision=start), 1)


async def closed_under_its_reader(registry, heard, feed=Feed, seconds=5):
    """The channel is closed while it is read, or while the gateway is away and the next try is waited for."""
    address = f"127.0.0.1:{free_port()}"
    channel = grpc.aio.insecure_channel(address, options=CLIENT_CHANNEL)
    registry.put(Model(identifier="a"))
    async with aclosing(changes(feed(RegistrySource(channel, wanted(["model"])), None, ""))) as told:
        async with serving(ScriptedInference(), registry, address):
            await take(told, 1)
            waiting = asyncio.ensure_future(anext(told))
            await until(lambda: registry.watches)
            if heard:
                await channel.close()
        await channel.close()
        async with asyncio.timeout(seconds):
            await waiting


@pytest.mark.parametrize("heard", [True, False])
async def test_a_client_that_is_closed_ends_what_is_read_from_it(registry, heard):
    with pytest.raises(errors.Unavailable, match="the client was closed"):
        await closed_under_its_reader(registry, heard)


class Waiting(Feed):
    """Takes the end of its channel for an outage."""

    async def _fail_if_closed(self):
        pass


@pytest.mark.parametrize("heard", [True, False])
async def test_a_reader_who_is_not_told_that_the_client_was_closed_waits_for_ever(registry, heard):
    """The control."""
    with pytest.raises(TimeoutError):
        await closed_under_its_reader(registry, heard, Waiting, 1)


async def through_a_restart(registry, compact, feed=Feed):
    """What is told of `a` and `b` when `a` goes and `c` comes while the gateway is away."""
    address = f"127.0.0.1:{free_port()}"
    for name in "ab":
        registry.put(Model(identifier=name))
    async with (
        grpc.aio.insecure_channel(address, options=CLIENT_CHANNEL) as channel,
        aclosing(changes(feed(RegistrySource(channel, wanted(["model"])), None, ""))) as told,
    ):
        async with serving(ScriptedInference(), registry, address):
            await take(told, 2)
            waiting = asyncio.ensure_future(take(told, 2))
            await until(lambda: registry.watches)
        registry.delete("model", "a")
        registry.put(Model(identifier="c"))
        if compact:
            registry.compacted = registry.revision
        async with serving(ScriptedInference(), registry, address):
            return brief(await waiting)


@pytest.mark.parametrize("compact", [False, True])
async def test_a_gateways_restart_loses_and_repeats_nothing(registry, compact):
    assert await through_a_restart(registry, compact) == ["removed model/a", "added model/c"]


class Forgetful(Feed):
    def replace(self, entries, revision):
        self._known.clear()
        super().replace(entries, revision)


async def test_that_restart_without_a_memory(registry):
    """The control: a feed that forgets what it told cannot say what was removed."""
    assert await through_a_restart(registry, True, Forgetful) != ["removed model/a", "added model/c"]


class Counted:
    """A source that counts what was read of it."""

    def __init__(self, source):
        self._source = source
        self.read = 0

    async def list(self):
        return await self._source.list()

    async def watch(self, start_revision, store_id):
        async with aclosing(self._source.watch(start_revision, store_id)) as responses:
            async for response in responses:
                self.read += bool(response.changes)
                yield response


class Unpaced(Feed):
    """Says that everything was taken."""

    def __init__(self, *about):
        super().__init__(*about)
        self._told.join = self._at_once

    async def _at_once(self):
        pass


async def read_ahead(registry, feed):
    """How many of 300 changes are read, at most, while the reader takes 30 of them."""
    registry.put(Model(identifier="first"))
    async with serving(ScriptedInference(), registry) as address, grpc.aio.insecure_channel(address) as channel:
        source = Counted(RegistrySource(channel, wanted(["model"])))
        async with aclosing(changes(feed(source, None, ""))) as told:
            await take(told, 1)
            for number in range(300):
                registry.put(Model(identifier=f"m{number}"))
            for number in range(30):
                assert (await take(told, 1))[0].name == f"m{number}"
                await asyncio.sleep(0.005)  # a reader that is slower than the registry
            ahead = source.read - 30
            assert [change.name for change in await take(told, 270)] == [f"m{number}" for number in range(30, 300)]
            return ahead


async def test_a_slow_reader_holds_up_the_stream_and_misses_nothing(registry):
    assert await read_ahead(registry, Feed) <= 1


async def test_a_stream_that_nothing_holds_up_runs_ahead(registry):
    """The control."""
    assert await read_ahead(registry, Unpaced) > 1


async def test_everything_at_one_revision(client, registry):
    for name in "abcde":
        registry.put(Model(identifier=name))
    listed = await client.entries(kinds=["model"])
    assert [entry.model.identifier for entry in listed.entries] == list("abcde")
    assert (listed.revision, listed.store_id) == (registry.revision, "one")
