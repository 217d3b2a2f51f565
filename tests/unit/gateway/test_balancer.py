from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from gateway.balancer import Balancer
from gateway.channels import EJECT_FIRST, EJECT_LIMIT, Channels
from gateway.snapshot import Endpoint
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
