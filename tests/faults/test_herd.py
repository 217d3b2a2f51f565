"""A hundred reflectors that lost the registry together come back one after the other."""

import time
from bisect import bisect_right
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from registry_service.records import encode, key_of
from registry_service.store import COMMIT_LIMIT, Delete, Put
from registry_service.stores import open_store
from stackmesh.backoff import Backoff
from stackmesh.errors import RevisionGone
from stackmesh.reflector import Reflector, RegistrySource
from stackmesh.registry.v1 import resources_pb2
from stackmesh.tasks import background
from stackmesh.transport import registry_channel
from tests.fakes.etcd import etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.mesh import meshed
from tests.scale import SOAK, full
from tests.waiting import until

REFLECTORS = 100
MODELS = 1000
OUTAGE_SECONDS = max(full(60), 15)
"""Long enough for all to have given up hoping that it is short."""
SPREAD_SECONDS = 5.0
TOGETHER = 40 if SOAK else 50
"""Of a hundred, at most so many come back within any one second. A shorter outage draws them less far apart."""
IN_STEP_SECONDS = 30.0
RELIST_SECONDS = 2.0


class Watched(RegistrySource):
    """Remembers when it was asked and answered."""

    def __init__(self, channel):
        super().__init__(channel)
        self.lists = []
        self.told = []
        self.heard = []

    async def list(self):
        self.lists.append(time.monotonic())
        listed = await super().list()
        self.heard.append(time.monotonic())
        return listed

    async def watch(self, start_revision, store_id):
        try:
            async with aclosing(super().watch(start_revision, store_id)) as responses:
                async for response in responses:
                    self.heard.append(time.monotonic())
                    yield response
        except RevisionGone:
            self.told.append(time.monotonic())
            self.heard.append(self.told[-1])
            raise


class Names:
    """A view that keeps the names, and what each is called by its provider."""

    def __init__(self):
        self.known = {}

    def replace(self, entries, revision):
        self.known = {}
        for entry in entries:
            self._put(entry)

    def apply(self, changes, revision):
        for change in changes:
            self._put(change.entry)

    def _put(self, entry):
        if entry.WhichOneof("value") is None:
            self.known.pop(entry.key, None)
        elif entry.HasField("model"):
            self.known[entry.key] = entry.model.provider_resource_id


def model(number, provider_name="echo-1"):
    return resources_pb2.Model(identifier=f"m-{number:04}", provider_id="echo", provider_resource_id=provider_name)


def put(record):
    return Put(key_of(record), encode(record))


class Herd:
    """Reflectors, each on a channel of its own, of a registry whose etcd can be taken away."""

    def __init__(self, mesh, store, proxy, followers):
        self.mesh = mesh
        self.store = store
        self.proxy = proxy
        self.followers = followers

    async def lose_etcd(self, seconds, meanwhile):
        """Take it away, until all have noticed at least. Returns when it is back. `meanwhile` writes past the proxy."""
        self.proxy.stall()
        over = time.monotonic() + seconds
        await until(lambda: all(reflector.stale for reflector, _, _ in self.followers), 20)
        await meanwhile
        await until(lambda: time.monotonic() > over, seconds + 1)
        self.proxy.resume()
        return time.monotonic()

    async def in_step(self, name, provider_name, seconds=IN_STEP_SECONDS):
        await until(lambda: all(v.known.get(name) == provider_name for _, _, v in self.followers), seconds)

    def returns(self, since):
        """When each heard of the registry again, in order."""
        return sorted(min(heard for heard in source.heard if heard > since) for _, source, _ in self.followers)


def seconds_between(returns):
    """The first and the last."""
    return returns[-1] - returns[0]


def together(returns):
    """The most that came back within one second."""
    return max(bisect_right(returns, began + 1) - number for number, began in enumerate(returns))


def check_spread(returns):
    """Neither all nor most of them at once."""
    assert seconds_between(returns) >= SPREAD_SECONDS
    assert together(returns) <= TOGETHER


@asynccontextmanager
async def herd(folder, count=REFLECTORS, kind=Reflector):
    async with AsyncExitStack() as stack:
        member = await stack.enter_async_context(etcd(folder))
        proxy = await stack.enter_async_context(TcpProxy(member.address))
        store = await stack.enter_async_context(open_store(f"etcd://{member.address}/mesh"))
        ops = [put(model(number)) for number in range(MODELS)]
        for start in range(0, MODELS, COMMIT_LIMIT):
            await store.commit(ops[start : start + COMMIT_LIMIT])
        url = f"etcd://{proxy.address}/mesh"
        mesh = await stack.enter_async_context(meshed(folder, url, gateways=0, instances=0))
        await mesh.start()
        followers = []
        for _ in range(count):
            channel = await stack.enter_async_context(registry_channel(",".join(mesh.registry_addresses)))
            source, view = Watched(channel), Names()
            followers.append((kind(source, view), source, view))
        for reflector, _, _ in followers:
            await stack.enter_async_context(background(reflector.run(), "reflector"))
        last = key_of(model(MODELS - 1))
        await until(lambda: all(last in view.known for _, _, view in followers), IN_STEP_SECONDS)
        yield Herd(mesh, store, proxy, followers)


@pytest.mark.timeout(180)
async def test_a_hundred_come_back_spread_out_and_all_in_step(tmp_path):
    async with herd(tmp_path) as them:
        changed = model(7, "echo-2")
        back = await them.lose_etcd(OUTAGE_SECONDS, them.store.commit([put(changed)]))
        await them.in_step(key_of(changed), "echo-2")
        assert time.monotonic() - back <= IN_STEP_SECONDS
        check_spread(them.returns(back))


class Hasty(Reflector):
    """Comes back at once."""

    def __init__(self, source, view):
        super().__init__(source, view)
        self._patient = Backoff(limit=0.5)


@pytest.mark.timeout(120)
async def test_without_patience_they_come_back_together(tmp_path):
    """The control."""
    async with herd(tmp_path, kind=Hasty) as them:
        changed = model(7, "echo-2")
        back = await them.lose_etcd(0, them.store.commit([put(changed)]))
        await them.in_step(key_of(changed), "echo-2")
        returns = them.returns(back)
    assert seconds_between(returns) < SPREAD_SECONDS
    assert together(returns) > TOGETHER


def test_one_who_is_late_does_not_make_a_herd_a_queue():
    """The control of what is counted: the first and the last are far enough apart, and that is not enough."""
    returns = [0.01 * number for number in range(REFLECTORS - 1)] + [2 * SPREAD_SECONDS]
    assert seconds_between(returns) >= SPREAD_SECONDS
    with pytest.raises(AssertionError):
        check_spread(returns)
    check_spread([0.1 * number for number in range(REFLECTORS)])


async def compact_past(store):
    """Make what was watched unwatchable: a name is gone, one is new, and nobody can be told of it."""
    await store.commit([Delete(key_of(model(7)))])
    await store.commit([put(model(7, "echo-3"))])
    await store.commit([Delete(key_of(model(8)))])
    await store.compact(await store.revision())


async def check_relisted(them, seconds=IN_STEP_SECONDS, outage=0):
    """All of them list again, soon after they were told to. Returns when etcd was back."""
    before = [len(source.lists) for _, source, _ in them.followers]
    back = await them.lose_etcd(outage, compact_past(them.store))
    await them.in_step(key_of(model(7)), "echo-3", seconds)
    await them.in_step(key_of(model(8)), None, seconds)
    for (_, source, _), lists in zip(them.followers, before, strict=True):
        assert source.told
        assert len(source.lists) > lists
        assert min(listed for listed in source.lists if listed >= source.told[-1]) - source.told[-1] <= RELIST_SECONDS
    return back


@pytest.mark.timeout(180)
async def test_what_was_compacted_while_away_is_listed_again_and_not_by_all_at_once(tmp_path):
    async with herd(tmp_path) as them:
        back = await check_relisted(them, outage=OUTAGE_SECONDS)
        check_spread(them.returns(back))


class Deaf(Reflector):
    """Resumes where the registry is, whatever it missed."""

    async def _watch(self, revision):
        try:
            await super()._watch(revision)
        except RevisionGone:
            listed = await self._source.list()
            self._step(listed.revision)


@pytest.mark.timeout(120)
async def test_resuming_after_a_compaction_misses_what_was_deleted(tmp_path):
    """The control."""
    async with herd(tmp_path, count=2, kind=Deaf) as them:
        with pytest.raises(TimeoutError):
            await check_relisted(them, IN_STEP_SECONDS if SOAK else 8)
