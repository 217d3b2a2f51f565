"""Calls of Bedrock: a client for the credential, a thread to wait in, an error that keeps its meaning."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from botocore.exceptions import ClientError, ConnectionClosedError

from services.inference.bedrock.clients import Clients, Service
from services.inference.bedrock.connections import Watch
from services.inference.bedrock.credentials import Account
from services.inference.bedrock.errors import meaning
from services.inference.bedrock.pipe import Pipe
from services.inference.bedrock.threads import Threads

T = TypeVar("T")
Question = Callable[[Any], T]
"""Asks a client of boto3's, in a thread."""


class Runtime:
    """One of AWS's two services for Bedrock."""

    def __init__(self, service: Service, clients: Clients, threads: Threads) -> None:
        self._service: Service = service
        self._clients = clients
        self._threads = threads

    async def ask(self, account: Account, question: Question[T]) -> T:
        """What `question` returns, asked with the account's client."""
        try:
            async with self._clients.of(self._service, account.credential) as api:
                return await self._threads.run(partial(_asked, question, api), account.where)
        except Exception as error:  # noqa: BLE001 -- whatever boto3 raises has a meaning
            raise meaning(error, account) from None

    @asynccontextmanager
    async def stream(self, account: Account, question: Question[object]) -> AsyncGenerator[Pipe]:
        """The body of the answer to `question`, whatever is made of it besides."""
        try:
            async with self._clients.of(self._service, account.credential) as api:
                async with self._threads.stream(partial(_asked, question, api), account.where) as pipe:
                    yield pipe
        except Exception as error:  # noqa: BLE001 -- whatever boto3 raises has a meaning
            raise meaning(error, account) from None

    async def probe(self, account: Account, question: Question[object]) -> None:
        """Ask without a signature. A refusal is what is to be expected; raises BackendUnreachable if nobody refuses."""
        api = self._clients.anonymous[self._service]
        try:
            await self._threads.run(partial(_asked, question, api), account.where)
        except ClientError:
            return
        except Exception as error:  # noqa: BLE001 -- whatever boto3 raises has a meaning
            raise meaning(error, account) from None


def _asked(question: Question[T], api: Any, watch: Watch) -> T:
    """Asked again if a connection that had been used before was closed instead of answered: it had idled too long."""
    try:
        return question(api)
    except ConnectionClosedError:
        if watch.left or not watch.reused or watch.response is not None:
            raise
        return question(api)
