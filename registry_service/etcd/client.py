"""One call to etcd, on whichever member answers, within a time of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Final, Self

import grpc

from registry_service.etcd.auth import Token
from registry_service.etcd.endpoints import Endpoint, Endpoints
from registry_service.etcd.errors import (
    AnswerTooLarge,
    NotNow,
    Refused,
    TokenEnded,
    Unsent,
    hung_up,
    of_call,
    silent,
    unready,
)
from registry_service.etcd.url import Location
from registry_service.etcd.wire import A, Method, Q
from stackmesh.errors import MeshError, RegistryUnreachable, Unavailable

log = logging.getLogger(__name__)

LIMIT: Final = 2.5
"""Seconds a call takes at most, all its tries included."""
_MOMENT: Final = 0.02
"""Seconds that gRPC may take to notice that a connection is no more: a call at once would break as the one before."""
_PAUSE: Final = 0.1
"""Seconds between two tries while there is no leader, or too much to do; an election takes about one second."""

Metadata = tuple[tuple[str, str], ...]


class Client:
    """Calls the members of a location. Every failure is a MeshError."""

    def __init__(self, location: Location, *, limit: float = LIMIT) -> None:
        self.limit = limit
        self.endpoints = Endpoints(location)
        self.token = Token(location)
        self.cluster = 0
        """The id of the cluster that answered the last call. A stream may still be with one before it."""
        self._resources = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._resources.enter_async_context(self.endpoints)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    @property
    def patience(self) -> float:
        """Seconds one member is waited for: with several of them, a frozen one must not cost all the time."""
        return self.limit / min(len(self.endpoints), 3)

    async def call(self, method: Method[Q, A], request: Q, *, repeatable: bool) -> A:
        """The answer. What is not repeatable is sent to another member only if the first has not begun to do it;
        otherwise RegistryUnreachable leaves open whether it was done. So it is waited for as long as there is time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.limit
        tries = len(self.endpoints) + 2  # a connection that broke may fail a second call before gRPC makes a new one
        problem: MeshError | None = None
        while tries and (left := deadline - loop.time()) > 0:
            endpoint = self.current()
            try:
                soon = loop.time() + min(left, self.patience)
                return await self._once(endpoint, method, request, soon, soon if repeatable else deadline)
            except TokenEnded as error:
                tries, problem = tries - 1, error
            except (Refused, AnswerTooLarge):
                raise
            except NotNow as error:
                problem = error
                await self.endpoints.leave(endpoint)
                await asyncio.sleep(min(_PAUSE, left))
            except RegistryUnreachable as error:
                await self.endpoints.leave(endpoint)
                if not isinstance(error, Unsent):
                    if not repeatable:
                        raise
                    await asyncio.sleep(_MOMENT)
                tries, problem = tries - 1, error
        raise problem or silent(self.current().address)

    def current(self) -> Endpoint:
        """The member to use now. Raises Unavailable when the client is closed."""
        if not self.endpoints.open:
            raise Unavailable("the registry's store is closed")
        return self.endpoints.current

    async def ready(self, endpoint: Endpoint, seconds: float) -> Metadata:
        """What a call carries, once one can be made. Raises Unsent if none can, Refused if no member would let it."""
        try:
            with self.failures(endpoint):
                async with asyncio.timeout(seconds):
                    await endpoint.settle()
                    return await self.metadata(endpoint)
        except TimeoutError:
            raise unready(endpoint.address, connected=endpoint.connected) from None
        except (Refused, Unsent):
            raise
        except RegistryUnreachable as error:
            raise Unsent(error.message) from None

    async def metadata(self, endpoint: Endpoint) -> Metadata:
        """What every call carries. A member without a leader refuses it, instead of letting it wait."""
        token = await self.token.get(endpoint)
        return (("hasleader", "true"), ("token", token)) if token else (("hasleader", "true"),)

    def heard(self, cluster: int) -> None:
        """Take note of which cluster answered."""
        if self.cluster not in (0, cluster):
            log.warning("another etcd cluster answers: %x instead of %x", cluster, self.cluster)
        self.cluster = cluster

    @contextmanager
    def failures(self, endpoint: Endpoint, metadata: Metadata = ()) -> Generator[None]:
        """Raises what a failure in the body means."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            problem = of_call(error, endpoint.address, tls=self.endpoints.tls)
            if isinstance(problem, TokenEnded):
                self.token.spoil(dict(metadata).get("token", ""))
            raise problem from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self.current()  # raises if it was the end of the client, and not the caller, that ended the call
                raise hung_up(endpoint.address) from None
            raise

    async def _once(self, endpoint: Endpoint, method: Method[Q, A], request: Q, ready: float, answered: float) -> A:
        """`ready` and `answered` are until when the member may take for either."""
        clock = asyncio.get_running_loop().time
        metadata = await self.ready(endpoint, ready - clock())
        with self.failures(endpoint, metadata):
            answer = await endpoint.unary(method)(request, timeout=answered - clock(), metadata=metadata)
        self.heard(answer.header.cluster_id)
        return answer

    def __repr__(self) -> str:
        return f"<Client {self.endpoints!r} [cluster {self.cluster:x}]>"
