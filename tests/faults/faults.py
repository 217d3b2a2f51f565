"""What is done to the processes and the network of a run, spread over its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tests.fakes.etcd import Etcd
from tests.fakes.tcp_proxy import TcpProxy
from tests.faults.processes import Member

QUORUM_SECONDS: Final = 3.0
"""A cluster is left without a quorum for so long at least: calls that wait for it must have given up."""

Fault = Callable[[float], Awaitable[None]]
"""Does something for so many seconds, and undoes it."""


def network_and_member(proxies: Sequence[TcpProxy], etcd: Etcd) -> Mapping[str, Fault]:
    """What can happen to one etcd and the ways to it."""

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

    cut = _cuts(proxies)
    return {"cut": cut, "stall": stall, "cut again": cut, "kill": kill, "freeze": freeze}


def cluster_faults(proxies: Sequence[TcpProxy], members: Sequence[Etcd]) -> Mapping[str, Fault]:
    """What can happen to a cluster of three and the ways to its members."""

    async def leader_first() -> Sequence[Etcd]:
        leads = await asyncio.gather(*(member.leads() for member in members))
        return sorted(members, key=lambda member: not leads[members.index(member)])

    async def lose_quorum(seconds: float) -> None:
        lost = (await leader_first())[:2]
        for member in lost:
            member.kill()
        await asyncio.sleep(max(seconds / 2, QUORUM_SECONDS))
        await asyncio.gather(*(member.restart() for member in lost))

    async def kill_leader(seconds: float) -> None:
        leader = (await leader_first())[0]
        leader.kill()
        await asyncio.sleep(seconds / 2)
        await leader.restart()

    async def freeze_leader(seconds: float) -> None:
        leader = (await leader_first())[0]
        leader.stop()
        await asyncio.sleep(seconds)
        leader.resume()  # and takes itself for the leader still

    return {
        "lose quorum": lose_quorum,
        "kill leader": kill_leader,
        "freeze leader": freeze_leader,
        "cut": _cuts(proxies),
    }


def _cuts(proxies: Sequence[TcpProxy]) -> Fault:
    async def cut(seconds: float) -> None:
        for proxy in proxies:
            proxy.cut()
            await asyncio.sleep(seconds / len(proxies))

    return cut


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
    """Each in turn, in the middle of its share of the time; one that takes longer takes it from the pauses."""
    began, share = time.monotonic(), seconds / len(faults) if faults else 0.0
    for number, fault in enumerate(faults.values()):
        await asyncio.sleep(began + (number + 1 / 4) * share - time.monotonic())
        await fault(share / 2)
