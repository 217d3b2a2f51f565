"""What a process says of its providers: one that fails, or is slow, hides and holds up none of the others."""

import asyncio
from contextlib import suppress

import pytest

from stackmesh import limits
from stackmesh.errors import (
    BackendPermissionDenied,
    BackendUnauthenticated,
    BackendUnreachable,
    Internal,
    ProviderNotFound,
    QueueFull,
    RateLimited,
)
from stackmesh.hosted import (
    FAILING_SECONDS,
    LOADING,
    REWORDING_SECONDS,
    HostedProvider,
)
from stackmesh.hosting import HostedProviders, Hosting
from stackmesh.provider.v1 import provider_service_pb2 as pb
from stackmesh.providers import Wanted
from stackmesh.routes import Api
from stackmesh.tasks import background
from tests.waiting import until


class Fixed:
    """A provider that serves what it is told, or fails as it is told; `hold` makes it wait before it answers."""

    def __init__(self, served=(), failure=None):
        self.served = served
        self.failure = failure
        self.asked = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.resolved = []

    async def list_served(self):
        self.asked += 1
        await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        return self.served

    async def resolve(self, wanted):
        self.resolved.append(wanted)
        return wanted.provider_resource_id.removeprefix("alias-of-")


def hosting(**providers):
    return HostedProviders(Api.API_INFERENCE, dict.fromkeys(providers, "remote::fixed"), providers)


def reasons(report):
    return {failure.provider_resource_id: failure.reason for failure in report.failures}


async def test_reports_what_changed_and_only_that():
    a, b = Fixed(["x"]), Fixed(["y"])
    hosted = hosting(a=a, b=b)
    assert {r.provider_id for r in await hosted.refresh()} == {"a", "b"}
    assert await hosted.refresh() == []
    a.served = ["x", "z"]
    (changed,) = await hosted.refresh()
    assert (changed.provider_id, list(changed.provider_resource_ids)) == ("a", ["x", "z"])
    assert {r.provider_id: list(r.provider_resource_ids) for r in hosted.reports} == {"a": ["x", "z"], "b": ["y"]}


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (BackendUnreachable("http://h:1: connection refused"), "http://h:1: connection refused"),
        (ValueError("key=sk-SECRET"), "the provider failed when asked what it serves; its log has more"),
        (TimeoutError(), "the backend did not say within 5 s what it serves"),
    ],
)
async def test_a_provider_that_fails_hides_none_of_the_others(failure, problem):
    hosted = hosting(dead=Fixed(failure=failure), alive=Fixed(["x"]))
    reports = {r.provider_id: r for r in await hosted.refresh()}
    assert reports["dead"].problem == problem
    assert list(reports["alive"].provider_resource_ids) == ["x"]
    assert reports["alive"].problem == ""


async def test_a_provider_that_is_slow_holds_up_none_of_the_others():
    slow, quick = Fixed(), Fixed()
    hosted = hosting(slow=slow, quick=quick)
    slow.hold.clear()
    told = []

    async def tell(report):
        told.append((report.provider_id, list(report.provider_resource_ids)))

    async with background(hosted.keep_fresh(tell), "keep fresh"):
        hosted.hosted("slow").look()
        await until(lambda: slow.asked)
        quick.served = ["x"]
        hosted.hosted("quick").look()
        await until(lambda: told == [("quick", ["x"])], 1)


async def test_a_name_that_could_not_travel_hides_none_of_the_others():
    report = await hosting(a=Fixed(["good", "bad name"])).hosted("a").ask()
    assert list(report.provider_resource_ids) == ["good"]
    assert "cannot be registered" in report.problem


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def watched(provider):
    """A provider, and the clock by which its failures are judged."""
    clock = Clock()
    return HostedProvider(Api.API_INFERENCE, "a", "remote::fixed", provider, clock=clock), clock


@pytest.mark.parametrize(
    "failure",
    [
        TimeoutError(),
        BackendUnreachable("h:1 answered 503"),
        BackendUnreachable("h:1 closed the connection before its answer was complete"),
        Internal("h:1 answered 500"),
        ValueError("a bug"),
    ],
)
async def test_a_backend_that_fails_to_say_serves_what_it_served_until_it_has_failed_for_a_while(failure):
    provider = Fixed(["x"])
    one, clock = watched(provider)
    for _ in range(2):  # what was forgiven once is forgiven again
        await one.refresh()
        provider.failure = failure
        begun = clock.now
        for seconds in (0, FAILING_SECONDS / 2, FAILING_SECONDS - 0.1):
            clock.now = begun + seconds
            await one.refresh()
            assert list(one.last.provider_resource_ids) == ["x"]
            assert one.last.problem
        clock.now = begun + FAILING_SECONDS
        await one.refresh()
        assert list(one.last.provider_resource_ids) == []
        provider.failure = None
        await one.refresh()
        assert (list(one.last.provider_resource_ids), one.last.problem) == (["x"], "")


@pytest.mark.parametrize(
    "failure",
    [
        BackendUnreachable("h:1 cannot be reached: connection refused", gone=True),
        BackendUnauthenticated("h:1 answered 401"),
        BackendPermissionDenied("h:1 answered 403"),
    ],
)
async def test_a_backend_that_is_not_there_serves_nothing_at_once(failure):
    provider = Fixed(["x"])
    one, _ = watched(provider)
    await one.refresh()
    provider.failure = failure
    await one.refresh()
    assert (list(one.last.provider_resource_ids), one.last.problem) == ([], failure.message)
    provider.failure = BackendUnreachable("h:1 answered 503")  # it is starting
    await one.refresh()
    assert list(one.last.provider_resource_ids) == []


@pytest.mark.parametrize("failure", [RateLimited("h:1 answered 429"), QueueFull("busy")])
async def test_a_backend_that_is_busy_is_there(failure):
    provider = Fixed(["x"])
    one, clock = watched(provider)
    await one.refresh()
    provider.failure = failure
    for _ in range(5):
        clock.now += FAILING_SECONDS
        await one.refresh()
        assert (list(one.last.provider_resource_ids), one.last.problem) == (["x"], failure.message)


async def test_a_problem_in_other_words_is_told_now_and_then():
    provider = Fixed()
    one, clock = watched(provider)

    async def told(words):
        provider.failure = Internal(f"h:1 answered 500: {words}")
        report = await one.refresh()
        return report and report.problem.rpartition(" ")[2]

    assert await told("req-1") == "req-1"
    assert [await told(f"req-{n}") for n in range(2, 20)] == [None] * 18
    clock.now += REWORDING_SECONDS
    assert await told("req-20") == "req-20"
    assert await told("req-21") is None
    one.failed("m", "no room")  # something else is new
    assert await told("req-22") == "req-22"
    provider.failure = None
    assert (await one.refresh()).problem == ""


async def test_cancelling_the_question_is_no_answer():
    provider = Fixed()
    provider.hold.clear()
    task = asyncio.create_task(hosting(a=provider).refresh())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_provider_that_is_not_here():
    with pytest.raises(ProviderNotFound, match="'b'; it hosts: a"):
        hosting(a=Fixed()).get("b")


class Failing:
    """Tells, but fails so many times before."""

    def __init__(self, failures):
        self.failures = failures
        self.told = []

    async def __call__(self, report):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        self.told.append((report.provider_id, list(report.provider_resource_ids)))


async def check_what_failed_to_be_told_is_told_after_all(kind=HostedProvider, failures=1, seconds=10):
    """What has come to be served is told once telling works again, though it was found before. So is what follows."""
    provider, tell = Fixed(["x"]), Failing(failures)
    one = kind(Api.API_INFERENCE, "a", "remote::fixed", provider)
    await one.refresh()
    async with background(one.keep_fresh(tell), "keep fresh"):
        provider.served = ["x", "y"]
        one.look()
        await until(lambda: tell.told == [("a", ["x", "y"])], seconds)
        provider.served = ["y"]
        async with asyncio.timeout(seconds):
            await one.looked()
        assert tell.told[1:] == [("a", ["y"])]


async def test_what_failed_to_be_told_is_told_after_all(caplog):
    await check_what_failed_to_be_told_is_told_after_all(failures=3)
    assert caplog.text.count("what provider a serves could not be told, trying again") == 3


class Mortal(HostedProvider):
    """The planted bug: whatever goes wrong ends it."""

    async def keep_fresh(self, tell):
        while True:
            await self._due()
            if (report := await self.refresh()) is not None:
                await tell(report)


class Forgetful(HostedProvider):
    """The planted bug: what could not be told counts as told."""

    async def keep_fresh(self, tell):
        async def once(report):
            with suppress(RuntimeError):
                await tell(report)

        await super().keep_fresh(once)


@pytest.mark.parametrize("kind", [Mortal, Forgetful])
async def test_that_check_sees_one_that_ends_and_one_that_forgets(kind):
    with pytest.raises(TimeoutError):
        await check_what_failed_to_be_told_is_told_after_all(kind, seconds=1)


# What cannot be served


async def test_a_report_says_what_is_loading_and_what_failed():
    one = hosting(a=Fixed(["served"])).hosted("a")
    await one.refresh()
    one.loading("served")  # again, because its registration has changed
    one.loading("big")
    one.failed("huge", "no room")
    assert reasons(await one.ask()) == {"big": LOADING, "huge": "no room"}
    one.loading("huge")
    assert reasons(await one.ask())["huge"] == "no room"  # a reason stands until it is gone
    one.loaded("huge")
    one.unloaded("big")
    assert reasons(await one.ask()) == {}


async def test_reasons_are_bounded_and_failures_come_first():
    one = hosting(a=Fixed()).hosted("a")
    for number in range(limits.FAILURES):
        one.loading(f"a-{number:03}")
    one.failed("z", "é" * 400)
    report = await one.ask()
    assert len(report.failures) == limits.FAILURES
    assert report.failures[0].provider_resource_id == "z"
    assert len(report.failures[0].reason.encode()) <= limits.REASON


# Resolve


async def resolve(hosted, name, kind=Hosting):
    request = pb.ResolveRequest(provider_id="a", provider_resource_id=name, metadata={"key": "value"})
    return (await kind(hosted).Resolve(request, None)).provider_resource_id


async def test_resolve_gives_the_provider_the_whole_request():
    provider = Fixed(["x"])
    hosted = hosting(a=provider)
    await hosted.refresh()
    assert await resolve(hosted, "alias-of-x") == "x"
    assert provider.resolved == [Wanted(provider_id="a", provider_resource_id="alias-of-x", metadata={"key": "value"})]
    assert provider.asked == 1


async def check_pulled_is_told(kind=Hosting):
    provider = Fixed(["x"])
    hosted = hosting(a=provider)
    await hosted.refresh()
    told = []

    async def tell(report):
        told.append(list(report.provider_resource_ids))

    async with background(hosted.keep_fresh(tell), "keep fresh"):
        provider.served = ["x", "pulled"]
        assert await resolve(hosted, "pulled", kind) == "pulled"
        assert told == [["x", "pulled"]]


async def test_what_was_pulled_a_moment_ago_is_told_before_resolve_answers():
    await check_pulled_is_told()


class Hasty(Hosting):
    """The planted bug: it answers and leaves the rest to the next listing."""

    async def Resolve(self, request, context):
        name = await self._hosted.get(request.provider_id).resolve(request)
        return pb.ResolveResponse(provider_resource_id=name)


async def test_the_check_of_what_was_pulled_sees_a_hosting_that_tells_later():
    with pytest.raises(AssertionError):
        await check_pulled_is_told(Hasty)


async def test_a_list_that_was_begun_too_early_does_not_count():
    provider = Fixed(["x"])
    one = hosting(a=provider).hosted("a")
    told = []

    async def tell(report):
        told.append(list(report.provider_resource_ids))

    async with background(one.keep_fresh(tell), "keep fresh"):
        provider.hold.clear()
        one.look()
        await until(lambda: provider.asked == 1)
        looked = asyncio.create_task(one.looked())
        await asyncio.sleep(0)
        provider.hold.set()
        async with asyncio.timeout(5):
            await looked
        assert provider.asked == 2


async def test_a_registry_that_does_not_answer_does_not_keep_resolve():
    hosted = hosting(a=Fixed(["x"]))

    async def tell(report):
        await asyncio.Event().wait()

    async with background(hosted.keep_fresh(tell), "keep fresh"), asyncio.timeout(5):
        assert await resolve(hosted, "x") == "x"
