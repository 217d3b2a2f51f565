"""What a process says of its providers: one that fails hides none of the others."""

import asyncio

import pytest

from stackmesh.errors import BackendUnreachable, ProviderNotFound
from stackmesh.hosting import HostedProviders
from stackmesh.routes import Api


class Fixed:
    """A provider that serves what it is told, or fails as it is told."""

    def __init__(self, served=(), failure=None):
        self.served = served
        self.failure = failure

    async def list_served(self):
        if self.failure is not None:
            raise self.failure
        return self.served


def hosting(**providers):
    return HostedProviders(Api.API_INFERENCE, dict.fromkeys(providers, "remote::fixed"), providers)


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


async def test_a_name_that_could_not_travel_hides_none_of_the_others():
    report = await hosting(a=Fixed(["good", "bad name"])).report("a")
    assert list(report.provider_resource_ids) == ["good"]
    assert "cannot be registered" in report.problem


async def test_a_backend_that_is_slow_to_say_still_serves_what_it_served():
    provider = Fixed(["x"])
    hosted = hosting(a=provider)
    await hosted.refresh()
    provider.failure = TimeoutError()
    (report,) = await hosted.refresh()
    assert list(report.provider_resource_ids) == ["x"]
    assert "did not say within" in report.problem
    provider.failure = BackendUnreachable("gone")
    (report,) = await hosted.refresh()
    assert list(report.provider_resource_ids) == []


async def test_cancelling_the_question_is_no_answer():
    class Stuck(Fixed):
        async def list_served(self):
            await asyncio.Event().wait()

    task = asyncio.create_task(hosting(a=Stuck()).refresh())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_provider_that_is_not_here():
    with pytest.raises(ProviderNotFound, match="'b'; it hosts: a"):
        hosting(a=Fixed()).get("b")
