"""Providers come to serve what is registered, whatever happens on the way. The reflector and its stream are real."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from stackmesh.backoff import Backoff
from stackmesh.convergence import Convergence
from stackmesh.errors import BackendUnreachable
from stackmesh.hosted import LOADING
from stackmesh.hosting import HostedProviders
from stackmesh.reflector import Reflector, RegistrySource
from stackmesh.registry.v1 import resources_pb2, watch_service_pb2 as pb
from stackmesh.routes import Api
from stackmesh.tasks import background
from stackmesh.transport import internal_channel
from stackmesh.wishes import Wishes
from tests.fakes.watch_server import WatchServer
from tests.waiting import until


class Loader:
    """A provider that serves what was loaded; keeps what was asked of it, and whether two steps ever overlapped."""

    def __init__(self):
        self.loaded: dict[str, Any] = {}
        self.steps: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.busy: set[str] = set()
        self.most = 0
        self.overlaps: list[str] = []

    @asynccontextmanager
    async def step(self, kind, name):
        if name in self.busy:
            self.overlaps.append(name)
        self.steps.append(f"{kind} {name}")
        self.busy.add(name)
        self.most = max(self.most, len(self.busy))
        try:
            yield
        except asyncio.CancelledError:
            self.steps.append(f"cancelled {name}")
            await asyncio.sleep(0)  # a backend needs a moment to stop
            raise
        finally:
            self.busy.discard(name)

    async def load(self, wanted):
        name = wanted.provider_resource_id
        async with self.step("load", name):
            if hold := self.hold.get(name):
                await hold.wait()
            if failure := self.failures.get(name):
                raise failure
            self.loaded[name] = dict(wanted.metadata)

    async def unload(self, name):
        async with self.step("unload", name):
            if hold := self.hold.get(f"unload {name}"):
                await hold.wait()
            self.loaded.pop(name, None)

    async def list_served(self):
        return sorted(self.loaded)


@dataclass
class World:
    registry: WatchServer
    loader: Loader
    hosted: HostedProviders
    told: list[Any] = field(default_factory=list)
    convergence: Convergence | None = None

    def count(self, step):
        return self.loader.steps.count(step)

    def served(self):
        return list(self.told[-1].provider_resource_ids) if self.told else []

    def reasons(self):
        return {f.provider_resource_id: f.reason for f in self.told[-1].failures} if self.told else {}

    def put(self, identifier, own, second=0, **metadata):
        row = resources_pb2.Model(identifier=identifier, provider_id="p", provider_resource_id=own)
        row.metadata.update(metadata)
        row.created_at.FromSeconds(second)
        self.registry._write(pb.Entry(key=f"model/{identifier}", model=row))


@asynccontextmanager
async def process(world, address, kind=Convergence, view=Wishes, **options):
    """A service process as far as convergence goes; what is open in it ends with it."""
    wishes = view(Api.API_INFERENCE, ["p"])
    world.convergence = kind(world.hosted, wishes, backoff=lambda: Backoff(0.01, 0.05), **options)

    async def tell(report):
        world.convergence.reported(report)
        world.told.append(report)

    async with internal_channel(address) as channel:
        reflector = Reflector(RegistrySource(channel, Wishes.filter(Api.API_INFERENCE, ["p"])), wishes)
        async with (
            background(world.hosted.keep_fresh(tell), "keep fresh"),
            background(world.convergence.run(), "convergence"),
            background(reflector.run(), "reflector"),
        ):
            yield


def new_world():
    loader = Loader()
    return World(WatchServer(), loader, HostedProviders(Api.API_INFERENCE, {"p": "inline::loader"}, {"p": loader}))


@asynccontextmanager
async def running(kind=Convergence, view=Wishes, **options):
    world = new_world()
    async with world.registry.serving() as address, process(world, address, kind, view, **options):
        yield world


async def check_others_are_not_held_up(seconds=10.0, **options):
    async with running(**options) as world:
        world.loader.hold["slow"] = asyncio.Event()
        world.registry.put("slow")
        await until(lambda: world.reasons() == {"slow": LOADING})
        world.registry.put("quick")
        await until(lambda: world.served() == ["quick"], seconds)
        world.loader.hold["slow"].set()
        await until(lambda: world.served() == ["quick", "slow"])
        assert world.reasons() == {}


async def check_the_last_of_two_identifiers_unloads(view=Wishes):
    async with running(view=view) as world:
        world.put("one", "own")
        world.put("two", "own")
        await until(lambda: world.served() == ["own"])
        world.registry.delete("one")
        world.registry.put("b")  # what comes after it has been seen says that it was
        await until(lambda: "b" in world.loader.loaded)
        assert world.loader.steps == ["load own", "load b"]
        world.registry.delete("two")
        await until(lambda: world.served() == ["b"])
        assert world.count("unload own") == 1


async def check_what_the_backend_has_lost_is_loaded_again(seconds=10.0, kind=Convergence):
    async with running(kind) as world:
        world.registry.put("a")
        await until(lambda: world.served() == ["a"])
        world.loader.loaded.clear()
        world.hosted.hosted("p").look()
        await until(lambda: world.count("load a") == 2, seconds)
        await until(lambda: world.served() == ["a"])


async def check_what_is_missed_is_made_good(seconds=10.0, view=Wishes):
    world = new_world()
    async with world.registry.serving() as address:
        pass
    async with process(world, address, view=view):
        async with world.registry.serving(address):
            world.registry.put("stays")
            world.registry.put("goes")
            await until(lambda: world.served() == ["goes", "stays"])
        await world.hosted.hosted("p").looked()
        assert world.loader.loaded.keys() == {"goes", "stays"}
        world.registry.delete("goes")
        world.registry.put("comes")
        world.registry.compacted = world.registry.revision  # so that only a relist can tell
        async with world.registry.serving(address):
            await until(lambda: "comes" in world.served())
            await until(lambda: world.served() == ["comes", "stays"], seconds)
    assert sorted(world.loader.steps) == ["load comes", "load goes", "load stays", "unload goes"]


async def test_what_is_registered_is_loaded_and_told():
    async with running() as world:
        world.registry.put("a")
        await until(lambda: world.served() == ["a"])
        assert world.loader.steps == ["load a"]


async def test_what_is_registered_with_others_is_not():
    async with running() as world:
        world.registry.put("theirs", "elsewhere")
        world.registry.put("a")
        await until(lambda: world.served() == ["a"])
        assert world.loader.steps == ["load a"]


async def test_while_it_loads_the_reason_is_told_and_others_are_not_held_up():
    await check_others_are_not_held_up()


async def test_the_check_sees_others_that_are_held_up():
    with pytest.raises(TimeoutError):
        await check_others_are_not_held_up(0.5, loads_at_once=1)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BackendUnreachable("no disk left on gpu-7"), "no disk left on gpu-7"),
        (ValueError("key=sk-SECRET"), "the provider failed to load it; its log has more"),
    ],
)
async def test_what_cannot_be_loaded_is_told_with_the_reason_and_tried_until_it_can(failure, reason):
    async with running() as world:
        world.loader.failures["a"] = failure
        world.registry.put("a")
        await until(lambda: world.reasons() == {"a": reason})
        await until(lambda: world.count("load a") >= 3)
        assert len([report for report in world.told if report.failures]) <= 2, "the same reason is told once"
        world.loader.failures.clear()
        await until(lambda: world.served() == ["a"])
        assert world.reasons() == {}


async def test_no_more_than_four_load_at_a_time():
    async with running() as world:
        hold = asyncio.Event()
        for number in range(12):
            world.loader.hold[f"m-{number}"] = hold
            world.registry.put(f"m-{number}")
        await until(lambda: len(world.loader.busy) == 4)
        hold.set()
        await until(lambda: len(world.served()) == 12)
        assert world.loader.most == 4


# Going


async def test_what_is_unregistered_is_unloaded():
    async with running() as world:
        world.registry.put("a")
        await until(lambda: world.served() == ["a"])
        world.registry.delete("a")
        await until(lambda: world.served() == [])
        assert world.loader.steps == ["load a", "unload a"]
        await until(lambda: not world.convergence._keepers)


async def test_a_load_is_stopped_when_nobody_wants_it_any_more():
    async with running() as world:
        world.loader.hold["a"] = asyncio.Event()
        world.registry.put("a")
        await until(lambda: world.loader.busy)
        world.registry.delete("a")
        await until(lambda: world.loader.steps == ["load a", "cancelled a", "unload a"])
        await until(lambda: world.reasons() == {})
        assert not world.loader.overlaps


async def test_two_identifiers_for_one_name_load_it_once_and_the_last_unloads_it():
    await check_the_last_of_two_identifiers_unloads()


class Single(Wishes):
    """The planted bug: whoever unregisters takes the name with him."""

    def _wanted(self, name):
        gone = name[1] == "own" and "model/one" not in self._keys.get(name, ())
        return None if gone else super()._wanted(name)


async def test_the_check_of_two_identifiers_sees_the_first_unload():
    with pytest.raises(AssertionError):
        await check_the_last_of_two_identifiers_unloads(Single)


async def test_what_is_registered_again_while_it_unloads_is_loaded_after_it():
    async with running() as world:
        world.registry.put("a")
        await until(lambda: world.served() == ["a"])
        world.loader.hold["unload a"] = asyncio.Event()
        world.registry.delete("a")
        await until(lambda: world.loader.busy)
        world.registry.put("a")
        world.registry.put("b")
        await until(lambda: "b" in world.loader.loaded)
        world.loader.hold["unload a"].set()
        await until(lambda: world.loader.steps[-1] == "load a" and "a" in world.loader.loaded)
        assert not world.loader.overlaps
        await until(lambda: world.served() == ["a", "b"])


async def test_other_metadata_load_it_again_and_stop_what_was_being_loaded():
    async with running() as world:
        world.put("a", "own", size=1)
        await until(lambda: world.loader.loaded == {"own": {"size": 1}})
        world.loader.hold["own"] = asyncio.Event()
        world.put("a", "own", size=2)
        await until(lambda: world.loader.busy)
        world.put("a", "own", size=3)
        await until(lambda: world.count("load own") == 3)
        world.loader.hold["own"].set()
        await until(lambda: world.loader.loaded == {"own": {"size": 3}})
        assert world.loader.steps == ["load own", "load own", "cancelled own", "load own"]
        assert not world.loader.overlaps


class Careless(Convergence):
    """The planted bug: a step begins before the one before it has ended."""

    def _want(self, name, wanted):
        if wanted is not None:
            self._group.create_task(self._hosted[name[0]].provider.load(wanted))


async def test_the_check_of_overlaps_sees_steps_that_overlap():
    async with running(Careless) as world:
        world.loader.hold["own"] = asyncio.Event()
        world.put("a", "own", size=2)
        await until(lambda: world.loader.busy)
        world.put("a", "own", size=3)
        await until(lambda: world.count("load own") == 2)
        assert world.loader.overlaps


# What may happen meanwhile


async def test_what_the_backend_has_lost_is_loaded_again():
    await check_what_the_backend_has_lost_is_loaded_again()


class Content(Convergence):
    """The planted bug: what was loaded once is taken to be served for ever."""

    def reported(self, report):
        pass


async def test_the_check_sees_what_is_lost_for_good():
    with pytest.raises(TimeoutError):
        await check_what_the_backend_has_lost_is_loaded_again(0.5, Content)


async def check_what_was_served_from_the_start_is_loaded_again(seconds=10.0, kind=Convergence):
    world = new_world()
    world.loader.loaded["a"] = {}
    await world.hosted.refresh()  # as a process does before it announces itself
    async with world.registry.serving() as address, process(world, address, kind):
        world.registry.put("a")
        await until(lambda: world.count("load a") == 1)
        world.loader.loaded.clear()
        world.hosted.hosted("p").look()
        await until(lambda: world.count("load a") == 2, seconds)


async def test_what_was_served_from_the_start_and_is_lost_is_loaded_again():
    await check_what_was_served_from_the_start_is_loaded_again()


async def test_the_check_sees_who_does_not_know_what_was_served_from_the_start():
    class Blank(Convergence):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._served = {}

    with pytest.raises(TimeoutError):
        await check_what_was_served_from_the_start_is_loaded_again(0.5, Blank)


async def test_a_process_that_starts_again_loads_what_is_registered():
    world = new_world()
    async with world.registry.serving() as address:
        async with process(world, address):
            world.registry.put("a")
            await until(lambda: world.served() == ["a"])
        assert world.count("unload a") == 0, "what is only stopping unregisters nothing"
        again = new_world()
        again.registry = world.registry
        async with process(again, address):
            await until(lambda: again.served() == ["a"])


async def test_what_is_missed_while_the_registry_is_away_is_made_good_and_what_is_served_stays():
    await check_what_is_missed_is_made_good()


class Additive(Wishes):
    """The planted bug: a relist only ever adds."""

    def replace(self, entries, revision):
        self.apply([pb.Change(entry=entry) for entry in entries], revision)


async def test_the_check_sees_a_relist_that_forgets_nothing():
    with pytest.raises(TimeoutError):
        await check_what_is_missed_is_made_good(0.5, Additive)


async def test_a_thousand_models_that_are_served_already_are_told_once():
    async with running() as world:
        world.loader.loaded = {f"m-{number:03}": {} for number in range(1000)}
        for name in world.loader.loaded:
            world.registry.put(name)
        world.hosted.hosted("p").look()
        await until(lambda: len(world.loader.steps) == 1000, 30)
        assert len(world.told) <= 2
