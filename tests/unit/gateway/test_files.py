"""More instances than connections are possible: a clear error, and the rest works."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.balancer import Balancer
from gateway.channels import Channels
from gateway.files import Files
from gateway.snapshot import Endpoint, SnapshotView
from stackmesh.errors import ResourceExhausted
from stackmesh.tasks import background
from tests.unit.gateway.known import instance, snapshot
from tests.waiting import until

FEW = Files(130)  # room for two
ENDPOINTS = [Endpoint(f"i{n}", f"127.0.0.1:{n + 1}") for n in range(4)]


@pytest.mark.parametrize(
    ("limit", "room"), [(0, 0), (130, 2), (256, 128), (1024, 768), (20_000, 18_976), (1 << 30, (1 << 30) - 1024)]
)
def test_a_part_is_kept_for_clients(limit: int, room: int):
    assert Files(limit).room == room


async def test_beyond_the_room_those_that_are_connected_take_the_calls():
    async with Channels(files=FEW) as channels:
        balancer = Balancer(channels)
        for endpoint in ENDPOINTS[:2]:
            balancer.release(balancer.pick([endpoint]))
        assert balancer.pick(ENDPOINTS).endpoint in ENDPOINTS[:2]
        with pytest.raises(ResourceExhausted) as caught:
            balancer.pick(ENDPOINTS[2:])
        assert "instance i2" in caught.value.message
        assert "limit of 130 open files (RLIMIT_NOFILE) leaves room for 2" in caught.value.message
        assert balancer.pick([Endpoint("", "127.0.0.1:9")]) is not None  # the registry always has one


async def test_the_room_of_an_instance_that_has_left_is_anothers():
    async with Channels(files=FEW) as channels, background(channels.close_idle(), "close"):
        balancer = Balancer(channels)
        for endpoint in ENDPOINTS[:2]:
            balancer.release(balancer.pick([endpoint]))
        channels.retain(snapshot(*(instance(e.instance_id, "p", address=e.address) for e in ENDPOINTS[1:])))
        await until(lambda: not channels._leaving)
        assert balancer.pick([ENDPOINTS[3]]).endpoint == ENDPOINTS[3]


async def test_control_without_the_limit_all_are_connected():
    async with Channels(files=Files(1 << 20)) as channels:
        balancer = Balancer(channels)
        assert [balancer.pick([endpoint]).endpoint for endpoint in ENDPOINTS] == ENDPOINTS


async def test_it_is_said_once_in_the_log(caplog):
    view = SnapshotView()
    with caplog.at_level(logging.ERROR):
        async with Channels(files=FEW) as channels, background(channels.follow(view), "follow"):
            for number in range(2, 6):
                view.replace([instance(f"i{n}", "p") for n in range(number)], number)
                await asyncio.sleep(0)  # to the follower
                await asyncio.sleep(0)
    (record,) = caplog.records
    assert "3 instances need a connection each" in record.message
