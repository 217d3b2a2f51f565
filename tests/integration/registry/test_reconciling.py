"""What a provider serves is reconciled with what is registered, and nobody who looks a model up can tell."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from registry_service.declared.discovered import Discovered
from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import parse
from registry_service.server import running
from registry_service.sqlite.store import SqliteStore
from stackmesh.transport import internal_channel
from tests.fakes.etcd import etcd
from tests.fakes.instance import FakeProvider
from tests.fakes.registry_parts import Rewriting
from tests.integration.registry.client import MODEL, Registry, config
from tests.waiting import until

YAML = "providers: {inference: [{provider_id: p, provider_type: 'inline::fake', auto_register: true}]}"
NAMES = [f"m{n:04}" for n in range(1000)]


@pytest.fixture(params=["sqlite", "etcd"])
async def store(request, tmp_path):
    if request.param == "sqlite":
        yield SqliteStore(tmp_path / "r.db")
        return
    async with etcd(tmp_path) as member:
        yield EtcdStore(parse(f"etcd://{member.address}/mesh"))


@asynccontextmanager
async def a_thousand_models(store):
    """A registry with one provider, all of whose models are registered by themselves; and a client of it."""
    mesh = config(YAML, lease_ttl=120.0)  # the fake instance does not beat
    async with running(mesh, store) as started, internal_channel(started.address) as channel:
        client = Registry(started.address, channel)
        async with client.instance({"p": FakeProvider({name: name for name in NAMES})}):
            await until(lambda: len(started.mirror.known.resources(MODEL)) == len(NAMES), 30)
            yield client, started.mirror


@dataclass
class Seen:
    """By clients of whom each looks up a model of its own, again and again."""

    missed: int = 0
    whole: set[str] = field(default_factory=set)
    """The models of which a lookup began and ended while there was a reconcile."""
    commits: int = 0


async def reconciled(store, kind=Discovered):
    """What a thousand clients see, all looking up from before the first reconcile of the models to after the last.

    Reconciled is as another replica does it, on the same store.
    """
    seen, looking, begun, over = Seen(), set(), asyncio.Event(), asyncio.Event()
    async with a_thousand_models(store) as (client, mirror):
        discovered = kind(config(YAML), store, mirror)

        async def look_up(name):
            while not over.is_set():
                looking.add(name)
                whole = begun.is_set()
                found = await client.state(name) is not None
                seen.missed += not found
                if whole:
                    seen.whole.add(name)

        async with asyncio.TaskGroup() as group:
            for name in NAMES:
                group.create_task(look_up(name))
            await until(lambda: len(looking) == len(NAMES))
            revision = await store.revision()
            begun.set()
            while len(seen.whole) < len(NAMES):
                await discovered.follow(await mirror.current())
            seen.commits = await store.revision() - revision
            over.set()
        assert set(mirror.known.resources(MODEL)) == set(NAMES)
    return seen


async def test_a_reconcile_of_an_unchanged_provider_writes_nothing_and_is_invisible_to_a_thousand_lookups(store):
    seen = await reconciled(store)
    assert seen.missed == 0
    assert seen.commits == 0


async def test_the_check_finds_a_reconcile_that_unregisters_first(tmp_path):
    seen = await reconciled(SqliteStore(tmp_path / "r.db"), Rewriting)
    assert seen.missed > 0
    assert seen.commits > 0
