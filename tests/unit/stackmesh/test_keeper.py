"""One name at a time: whatever a provider does when it loads or unloads, the next step is taken."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from stackmesh.backoff import Backoff
from stackmesh.errors import BackendUnreachable
from stackmesh.hosted import LOADING
from stackmesh.hosting import HostedProviders
from stackmesh.keeper import UNLOAD_TRIES, Keeper, Places
from stackmesh.providers import Wanted
from stackmesh.routes import Api
from stackmesh.tasks import background
from tests.waiting import until

WANTED = Wanted(provider_id="p", provider_resource_id="a")


class Panic(BaseException):
    """As a library in Rust raises it."""


class Odd:
    """A provider that does what it is told to do, once for each entry, and then well."""

    def __init__(self, *, load=(), unload=()):
        self.todo = {"load": list(load), "unload": list(unload)}
        self.steps = []
        self.served = set()

    async def load(self, wanted):
        await self._step("load")
        self.served.add(wanted.provider_resource_id)

    async def unload(self, name):
        await self._step("unload")
        self.served.discard(name)

    async def list_served(self):
        return sorted(self.served)

    async def _step(self, kind):
        self.steps.append(kind)
        if self.todo[kind]:
            raised = self.todo[kind].pop(0)
            if raised is asyncio.CancelledError:
                inner = asyncio.ensure_future(asyncio.Event().wait())
                inner.cancel()
                await inner  # something of its own was cancelled
            raise raised


@asynccontextmanager
async def kept(provider, places=None):
    """A keeper of "a", and the provider as it is hosted."""
    [hosted] = HostedProviders(Api.API_INFERENCE, {"p": "inline::odd"}, {"p": provider})
    keeper = Keeper("a", hosted, places or Places(4), lambda: Backoff(0.001, 0.002))
    async with asyncio.timeout(10):
        yield keeper, hosted


async def reasons(hosted):
    return {failure.provider_resource_id: failure.reason for failure in (await hosted.ask()).failures}


@pytest.mark.parametrize(
    "raised", [Panic(), asyncio.CancelledError, ValueError(), TimeoutError(), BackendUnreachable("x")]
)
async def test_whatever_a_load_raises_it_is_tried_again(raised):
    async with kept(Odd(load=[raised, raised])) as (keeper, hosted):
        assert keeper.want(WANTED)
        await keeper.run()
        assert hosted.provider.steps == ["load"] * 3
        assert await reasons(hosted) == {}


@pytest.mark.parametrize("raised", [Panic(), asyncio.CancelledError, ValueError()])
async def test_whatever_an_unload_raises_it_is_tried_again_and_the_name_goes_on(raised):
    async with kept(Odd(unload=[raised])) as (keeper, hosted):
        keeper.want(WANTED)
        await keeper.run()
        assert keeper.want(None)
        await keeper.run()
        assert hosted.provider.steps == ["load", "unload", "unload"]
        assert keeper.want(WANTED), "it runs no more, so it has to be started"
        await keeper.run()
        assert hosted.provider.served == {"a"}


async def test_an_unload_that_never_works_is_given_up():
    async with kept(Odd(unload=[ValueError()] * 100)) as (keeper, hosted):
        keeper.want(WANTED)
        await keeper.run()
        keeper.want(None)
        await keeper.run()
        assert hosted.provider.steps == ["load", *["unload"] * UNLOAD_TRIES]


async def test_being_cancelled_gets_through():
    class Hangs(Odd):
        async def load(self, wanted):
            self.steps.append("load")
            await asyncio.Event().wait()

    async with kept(Hangs()) as (keeper, hosted):
        keeper.want(WANTED)
        async with background(keeper.run(), "keeper") as task:
            await until(lambda: hosted.provider.steps == ["load"])
        assert task.cancelled()
        assert hosted.provider.steps == ["load"]


async def test_a_load_that_makes_a_failure_of_its_cancellation_ends_all_the_same():
    class Stubborn(Odd):
        async def load(self, wanted):
            self.steps.append("load")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise BackendUnreachable("hung up") from None

    async with kept(Stubborn()) as (keeper, hosted):
        keeper.want(WANTED)
        async with background(keeper.run(), "keeper") as task:
            await until(lambda: hosted.provider.steps == ["load"])
            assert not keeper.want(None)
            await asyncio.wait([task])
        assert hosted.provider.steps == ["load", "unload"]
        assert await reasons(hosted) == {}


async def lost_as_soon_as_loaded(kind=Keeper):
    """The steps taken when the report that a name is lost comes in the very turn of the loop in which it was loaded."""
    [hosted] = HostedProviders(Api.API_INFERENCE, {"p": "inline::odd"}, {"p": (provider := Odd())})
    keeper = kind("a", hosted, Places(4), lambda: Backoff(0.001, 0.002))

    async def lose():
        while not provider.served:  # noqa: ASYNC110 -- each turn of the loop is looked at
            await asyncio.sleep(0)
        provider.served.clear()
        assert not keeper.again(), "it runs already"

    keeper.want(WANTED)
    async with asyncio.timeout(10), background(lose(), "lose", vital=False) as losing:
        await keeper.run()
        await losing
    return provider.steps


async def test_what_is_lost_as_soon_as_it_was_loaded_is_loaded_again():
    assert await lost_as_soon_as_loaded() == ["load", "load"]


async def test_the_check_sees_who_takes_an_ended_load_for_one_in_progress():
    class Late(Keeper):
        def again(self):
            return self._loading is None and super().again()

    assert await lost_as_soon_as_loaded(Late) == ["load"]


async def others_get_their_turn(places, seconds):
    """Whether a quick load gets a place while as many as there are places for hang."""
    release = asyncio.Event()

    async def hang():
        async with places.taken("to hang"):
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(hang())
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(seconds), places.taken("to be quick"):
                return True
        except TimeoutError:
            return False
        finally:
            release.set()


async def test_slow_steps_give_their_places_to_others():
    assert await others_get_their_turn(Places(2, slow_seconds=0.02), 10)


async def test_control_places_that_are_never_given():
    assert not await others_get_their_turn(Places(2, slow_seconds=3600), 0.2)


async def test_a_place_is_given_back_once():
    places = Places(1, slow_seconds=0.01)
    assert await others_get_their_turn(places, 10)
    entered = []

    async def enter():
        async with places.taken("to be alone"):
            entered.append(len(entered))
            await asyncio.Event().wait()

    async with background(enter(), "one"), background(enter(), "two"):
        await until(lambda: entered)
        await asyncio.sleep(0)
        assert entered == [0]


async def test_while_it_loads_that_is_the_reason():
    hold = asyncio.Event()

    class Slow(Odd):
        async def load(self, wanted):
            await hold.wait()
            await super().load(wanted)

    async with kept(Slow()) as (keeper, hosted):
        keeper.want(WANTED)
        async with background(keeper.run(), "keeper") as task:
            await asyncio.sleep(0)
            await until(lambda: hosted._loading)
            assert await reasons(hosted) == {"a": LOADING}
            hold.set()
            await asyncio.wait([task])
        assert await reasons(hosted) == {}
