"""Signs of life, all over one stream: a thousand instances beat for less than a thousand streams would cost."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from registry_service.etcd.client import Client
from registry_service.etcd.errors import silent
from registry_service.etcd.stream import Stream, opened
from registry_service.etcd.wire import KEEP_ALIVE
from stackmesh.errors import MeshError, RegistryUnreachable, Unavailable
from stackmesh.etcd.v1 import etcd_pb2 as pb
from stackmesh.tasks import background

log = logging.getLogger(__name__)

KeepAliveStream = Stream[pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse]


class KeepAlives:
    """`run` is its background work."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._wanted: asyncio.Queue[int] = asyncio.Queue()
        self._waiting: dict[int, deque[asyncio.Future[int]]] = {}
        """Of each lease, in the order of the questions, which is that of the answers."""

    async def send(self, lease: int) -> int:
        """Seconds the lease has left; 0 if it has ended."""
        problem: MeshError = silent(self._client.current().address)
        try:
            async with asyncio.timeout(self._client.limit):
                for _ in range(len(self._client.endpoints) + 1):
                    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                    self._waiting.setdefault(lease, deque()).append(answer)
                    self._wanted.put_nowait(lease)
                    try:
                        return await answer
                    except RegistryUnreachable as error:
                        problem = error
        except TimeoutError:
            pass
        raise problem

    async def run(self) -> None:
        """Send what is wanted, for ever, over a new stream when one fails."""
        try:
            while True:
                lease = await self._wanted.get()
                try:
                    async with opened(self._client, KEEP_ALIVE) as stream:
                        stream.write(pb.LeaseKeepAliveRequest(id=lease))
                        async with background(self._write(stream), "keep-alives", vital=False):
                            await self._read(stream)
                except MeshError as error:
                    self._fail(error)
                except Exception:  # instances live by this: it must not end
                    log.exception("signs of life failed, going on")
                    self._fail(silent(self._client.current().address))
        finally:
            self._fail(Unavailable("the registry's store is closed"))

    async def _write(self, stream: KeepAliveStream) -> None:
        while True:
            stream.write(pb.LeaseKeepAliveRequest(id=await self._wanted.get()))

    async def _read(self, stream: KeepAliveStream) -> None:
        while True:
            asked = bool(self._waiting)
            answer = await stream.next(self._client.patience / 2)
            if answer is not None:
                self._answer(answer)
            elif asked:
                raise silent(stream.address)

    def _answer(self, answer: pb.LeaseKeepAliveResponse) -> None:
        """Tell the one whose question it was: what it says may be over by the time of the next one."""
        asked = self._waiting.get(answer.id)
        if not asked:
            return
        waiting = asked.popleft()
        if not asked:
            del self._waiting[answer.id]
        if not waiting.done():
            waiting.set_result(answer.ttl)

    def _fail(self, error: MeshError) -> None:
        """All who wait ask again, of another member."""
        failed = [waiting for several in self._waiting.values() for waiting in several]
        self._waiting.clear()
        while not self._wanted.empty():
            self._wanted.get_nowait()
        for waiting in failed:
            if not waiting.done():
                waiting.set_exception(error)
