from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import pytest

from gateway.balancer import MANY, Balancer
from gateway.channels import EJECT_FIRST, EJECT_LIMIT, Channels
from gateway.files import Files
from gateway.snapshot import Endpoint
from stackmesh.errors import ResourceExhausted
from tests.counting import calls
from tests.unit.gateway.known import instance, snapshot

A, B, C = (Endpoint(name, f"127.0.0.1:{port}") for name, port in (("a", 1), ("b", 2), ("c", 3)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def channels():
    async with Channels() as channels:
        yield channels


@pytest.fixture
async def balancer(channels: Channels, clock: Clock):
    return Balancer(channels, clock)


async def test_the_one_with_the_fewest_requests_is_picked(balancer: Balancer):
    held = [balancer.pick((A, B, C)) for _ in range(6)]
    assert Counter(u.endpoint for u in held) == {A: 2, B: 2, C: 2}
    free = next(u for u in held if u.endpoint == B)
    balancer.release(free)
    assert balancer.pick((A, B, C)) is free
    assert free.requests_in_flight == 2


async def test_equals_take_turns(balancer: Balancer):
    picks = []
    for _ in range(6):
        upstream = balancer.pick((A, B, C))
        picks.append(upstream.endpoint)
        balancer.release(upstream)
    assert picks[:3] == picks[3:]
    assert set(picks) == {A, B, C}


async def test_what_was_tried_is_not_picked(balancer: Balancer):
    assert balancer.pick((A, B), [A]).endpoint == B
    assert balancer.pick((A, B), [A, B]) is None


async def test_what_failed_is_left_alone_for_longer_each_time(balancer: Balancer, clock: Clock):
    failed = balancer.pick((A,))
    for expected in (EJECT_FIRST, 2 * EJECT_FIRST, 4 * EJECT_FIRST):
        for _ in range(100):
            balancer.failed(failed)  # all calls in flight fail at once: that counts once
        assert balancer.ejected(failed)
        assert failed.ejected_until - clock.now == expected
        assert {balancer.pick((A, B)).endpoint for _ in range(20)} == {B}
        clock.now = failed.ejected_until
        assert not balancer.ejected(failed)
    assert balancer.pick((A, B)) is failed
    for _ in range(20):
        clock.now = failed.ejected_until
        balancer.failed(failed)
    assert failed.ejected_until - clock.now == EJECT_LIMIT
    balancer.answered(failed)
    assert not balancer.ejected(failed)


async def test_if_all_failed_they_are_used_anyhow(balancer: Balancer):
    for endpoint in (A, B):
        balancer.failed(balancer.pick((endpoint,)))
    assert {balancer.pick((A, B)).endpoint for _ in range(4)} == {A, B}


class Watched:
    """Stands where a channel is opened, and counts what is open."""

    def __init__(self) -> None:
        self.open: set[str] = set()

    def __call__(self, address: str):
        self.open.add(address)
        return _Closing(address, self.open)


class _Closing:
    def __init__(self, address: str, opened: set[str]) -> None:
        self._address, self._open = address, opened

    async def close(self) -> None:
        self._open.discard(self._address)


async def closed_when_idle(kind: type[Channels]) -> list[bool]:
    """Whether the channel of an instance that left is open: with a call in flight, and after it."""
    watched = Watched()
    seen: list[bool] = []
    async with kind(watched) as channels:
        closing = asyncio.create_task(channels.close_idle())
        balancer = Balancer(channels)
        upstream = balancer.pick((A,))
        channels.retain(snapshot(instance("b", address=B.address)))
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append(A.address in watched.open)
        balancer.release(upstream)
        for _ in range(5):
            await asyncio.sleep(0)
        seen.append(A.address in watched.open)
        closing.cancel()
    assert not watched.open
    return seen


async def test_a_channel_outlives_its_instance_until_its_calls_have_ended():
    assert await closed_when_idle(Channels) == [True, False]


async def test_control_a_channel_that_closes_with_its_instance_is_noticed():
    class Hasty(Channels):
        def retain(self, snapshot):
            super().retain(snapshot)
            for upstream in self._leaving:
                self._idle.put_nowait(upstream)

    assert await closed_when_idle(Hasty) == [False, False]


async def test_live_instances_and_the_registry_keep_their_channels(channels: Channels):
    registry = channels.get(Endpoint("", "127.0.0.1:9"))
    live = channels.get(A)
    channels.retain(snapshot(instance("a", address=A.address)))
    assert channels.get(A) is live
    assert channels.get(Endpoint("", "127.0.0.1:9")) is registry


CROWD = tuple(Endpoint(f"i{number}", f"127.0.0.1:{number}") for number in range(1000))


class Thorough(Balancer):
    """The planted bug: looks at all of many."""

    def _drawn(self, endpoints):
        return endpoints


class Blind(Balancer):
    """The planted bug: takes any of many."""

    def _drawn(self, endpoints):
        return self._chance.sample(endpoints, 1)


async def opened_by_a_call(kind: type[Balancer]) -> int:
    watched = Watched()
    async with Channels(watched, Files(100_000)) as channels:
        kind(channels).pick(CROWD)
        return len(watched.open)


async def test_a_call_opens_no_connection_to_everybody():
    assert await opened_by_a_call(Balancer) == 2
    assert await opened_by_a_call(Thorough) == 1000  # the control


async def dearer_among_many(kind: type[Balancer]) -> float:
    """How much more a pick among 1,000 costs than one among a few more than MANY, all of them open."""
    async with Channels(Watched(), Files(100_000)) as channels:
        balancer = kind(channels)
        for endpoint in CROWD:
            balancer.release(balancer.pick((endpoint,)))
        few, many = (
            calls(lambda among=among: [balancer.pick(among) for _ in range(20)]) for among in (CROWD[: MANY + 1], CROWD)
        )
        return many / few


async def test_a_pick_among_many_costs_the_same_however_many():
    assert await dearer_among_many(Balancer) < 1.5
    assert await dearer_among_many(Thorough) > 10  # the control


async def heaviest(kind: type[Balancer]) -> int:
    """Requests in flight at the busiest of 100, when there are 1,000."""
    async with Channels(Watched(), Files(100_000)) as channels:
        balancer = kind(channels, chance=Random(1))  # noqa: S311 -- no secret
        held = [balancer.pick(CROWD[:100]) for _ in range(1000)]
        return max(upstream.requests_in_flight for upstream in held)


async def test_many_are_loaded_evenly():
    assert await heaviest(Balancer) <= 13
    assert await heaviest(Blind) > 16  # the control


async def test_among_many_the_ejected_are_avoided_too(clock: Clock):
    async with Channels(Watched(), Files(100_000)) as channels:
        balancer = Balancer(channels, clock)
        for endpoint in CROWD[3:]:
            upstream = balancer.pick((endpoint,))
            balancer.failed(upstream)
            balancer.release(upstream)
        assert {balancer.pick(CROWD).endpoint for _ in range(20)} <= set(CROWD[:3])
        for endpoint in CROWD[:3]:
            balancer.failed(balancer.pick((endpoint,)))
        assert balancer.pick(CROWD).endpoint in CROWD  # all have failed: they are used anyhow


async def test_among_more_than_there_is_room_for_those_that_are_connected_are_used():
    async with Channels(Watched(), Files(131)) as channels:  # room for three
        balancer = Balancer(channels)
        for endpoint in CROWD[:3]:
            balancer.pick((endpoint,))
        assert {balancer.pick(CROWD).endpoint for _ in range(20)} == set(CROWD[:3])
        with pytest.raises(ResourceExhausted):
            balancer.pick(CROWD[3:])
