"""Signs of life: each question gets its own answer."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest

from registry_service.etcd.client import Client
from registry_service.etcd.leases import KeepAlives
from registry_service.etcd.url import parse
from registry_service.etcd.wire import KEEP_ALIVE
from stackmesh.etcd.v1 import etcd_pb2 as pb
from stackmesh.tasks import background
from tests.fakes.etcd import store_url
from tests.waiting import until

LEASE = 7


class Member(grpc.GenericRpcHandler):
    """Answers when it is asked to, in the order of the questions."""

    def __init__(self):
        self.asked = 0
        self.answers = asyncio.Queue()

    def service(self, handler_call_details):
        assert handler_call_details.method == KEEP_ALIVE.path
        return grpc.stream_stream_rpc_method_handler(
            self._keep_alive, pb.LeaseKeepAliveRequest.FromString, pb.LeaseKeepAliveResponse.SerializeToString
        )

    async def _keep_alive(self, questions, context):
        async with background(self._listen(questions), "listen"):
            while True:
                ttl = await self.answers.get()
                yield pb.LeaseKeepAliveResponse(id=LEASE, ttl=ttl)

    async def _listen(self, questions):
        async for _ in questions:
            self.asked += 1


@asynccontextmanager
async def member():
    server, handler = grpc.aio.server(), Member()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield handler, f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


class Hasty(KeepAlives):
    """Takes an answer for that to every question about the lease."""

    def _answer(self, answer):
        while answer.id in self._waiting:
            super()._answer(answer)


async def answers_each_question(kind):
    """A lease that has ended since the first question is not said to live."""
    async with member() as (etcd, address), Client(parse(store_url(address))) as client:
        keep_alives = kind(client)
        async with background(keep_alives.run(), "keep-alives"):
            first = asyncio.create_task(keep_alives.send(LEASE))
            second = asyncio.create_task(keep_alives.send(LEASE))
            etcd.answers.put_nowait(30)
            assert await first == 30
            etcd.answers.put_nowait(0)
            assert await second == 0
            assert etcd.asked == 2


async def test_each_question_has_its_own_answer():
    await answers_each_question(KeepAlives)


async def test_that_check_finds_one_answer_for_all():
    with pytest.raises(AssertionError):
        await answers_each_question(Hasty)


class Faulty(KeepAlives):
    faults = 1

    def _answer(self, answer):
        if self.faults:
            self.faults -= 1
            raise RuntimeError("a bug")
        super()._answer(answer)


async def test_a_bug_does_not_end_the_signs_of_life(caplog):
    async with member() as (etcd, address), Client(parse(store_url(address))) as client:
        keep_alives = Faulty(client)
        async with background(keep_alives.run(), "keep-alives"):
            asked = asyncio.create_task(keep_alives.send(LEASE))

            def answered():
                etcd.answers.put_nowait(30)  # one after the other, for a stream that ends may take one with it
                return asked.done()

            await until(answered)
            assert await asked == 30
    assert "a bug" in caplog.text
