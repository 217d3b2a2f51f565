"""What the end of a try says of the instance it went to."""

from __future__ import annotations

import grpc
import pytest

from gateway.balancer import Balancer
from gateway.channels import Channels, Upstream
from gateway.routing import ToRegistry
from gateway.tries import Tries, Way
from tests.fakes.h2_peer import Misbehaviour, Peer, say_nothing
from tests.unit.gateway.known import CHAT


class Aborted(Exception): ...


class Context:
    """The listener's side of a call that has 0.2 s left."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float:
        return 0.2

    async def send_initial_metadata(self, metadata: object) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str, trailing: object) -> None:
        raise Aborted(code)


async def tried(kind: type[Tries], misbehaviour: Misbehaviour) -> tuple[grpc.StatusCode, Upstream]:
    """How a call ends at an instance that had failed before."""
    async with Peer(misbehaviour).listening() as address, Channels() as channels:
        routing, balancer = ToRegistry(address), Balancer(channels)
        upstream = balancer.pick(routing.target(CHAT, "").endpoints)
        balancer.failed(upstream)
        tries = kind(Way(CHAT, routing, balancer, 5.0), Context())
        with await tries.next(""):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await tries.start(b"")
            with pytest.raises(Aborted) as aborted:
                await tries.fail(failed.value)
        return aborted.value.args[0], upstream


async def test_an_instance_that_lets_the_deadline_pass_has_not_answered():
    code, upstream = await tried(Tries, say_nothing)
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert upstream.failures == 1


async def test_control_a_deadline_that_counts_as_an_answer_is_noticed():
    class Credulous(Tries):
        async def fail(self, error):
            await self.answer(tuple(error.initial_metadata()))
            await super().fail(error)

    _, upstream = await tried(Credulous, say_nothing)
    assert upstream.failures == 0
