"""What is done to the processes and the network of a run, spread over its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tests.fakes.etcd import Etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.processes import Member

Fault = Callable[[float], Awaitable[None]]
"""Does something for so many seconds, and undoes it."""


def network_and_member(proxies: Sequence[TcpProxy], etcd: Etcd) -> Mapping[str, Fault]:
    """What can happen to one etcd and the ways to it."""

    async def cut(seconds: float) -> None:
        for proxy in proxies:
            proxy.cut()
            await asyncio.sleep(seconds / len(proxies))

    async def stall(seconds: float) -> None:
        for proxy in proxies:
            proxy.stall()
        await asyncio.sleep(seconds)
        for proxy in proxies:
            proxy.resume()

    async def kill(seconds: float) -> None:
        etcd.kill()
        await asyncio.sleep(seconds / 4)
        await etcd.restart()

    async def freeze(seconds: float) -> None:
        etcd.stop()
        await asyncio.sleep(seconds)
        etcd.resume()

    return {"cut": cut, "stall": stall, "cut again": cut, "kill": kill, "freeze": freeze}


def member_faults(member: Member) -> Mapping[str, Fault]:
    """What can happen to one process of the mesh."""

    async def freeze(seconds: float) -> None:
        member.freeze()
        await asyncio.sleep(seconds)
        member.thaw()

    async def kill(seconds: float) -> None:
        await member.kill()
        await asyncio.sleep(seconds / 4)
        await member.start()

    return {f"freeze {member.name}": freeze, f"kill {member.name}": kill}


async def spread(faults: Mapping[str, Fault], seconds: float) -> None:
    """Each in turn, in the middle of its share of the time."""
    for fault in faults.values():
        share = seconds / len(faults)
        await asyncio.sleep(share / 4)
        await fault(share / 2)
        await asyncio.sleep(share / 4)
