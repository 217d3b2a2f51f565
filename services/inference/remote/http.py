"""HTTP to one server: a pool of connections, time limits, errors that keep their meaning."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self
from weakref import WeakSet

import aiohttp
from pydantic_core import from_json, to_json

from services.inference.remote.errors import Refusal, refusal
from services.inference.remote.transport import Reader
from services.inference.remote.urls import Url, host_of
from stackmesh.errors import BackendUnreachable, Internal, QueueFull, Timeout

_READ_BUFFER: Final = 64 * 1024
"""Bytes after which a slow consumer's socket is no longer read (aiohttp stops at twice this)."""
_ERROR_LIMIT: Final = 64 * 1024
_KEEP_ALIVE: Final = 4.0
"""Seconds a connection may idle. uvicorn, under vLLM, closes after 5: a request sent at that moment would be lost."""
_LINGER: Final = 0.1
_LISTING_TIMEOUT: Final = 4.0
"""Seconds of silence before the list of models, which costs a healthy server nothing."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how patient to be with it."""

    url: Url
    connect_timeout: float
    read_timeout: float
    max_connections: int
    tls_verify: bool

    @property
    def host(self) -> str:
        """`host:port`, which is all of the URL that an error shows."""
        return host_of(self.url)


class Http:
    """The Transport to one endpoint. `refusal` is what an answer means whose status is not 200."""

    _session: aiohttp.ClientSession

    def __init__(self, endpoint: Endpoint, refusal: Refusal = refusal) -> None:
        self.endpoint = endpoint
        self._meaning = refusal
        # aiohttp's own limit (100 connections) makes the 101st call wait without a bound, and the list of models with
        # it. So the pool has none, and calls wait here.
        self._slots = asyncio.Semaphore(endpoint.max_connections)

    @property
    def where(self) -> str:
        return self.endpoint.host

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_Pool(self.endpoint.tls_verify),
            cookie_jar=aiohttp.DummyCookieJar(),  # a cookie would tie one caller to another
            headers={"User-Agent": "stackmesh", "Accept-Encoding": "identity"},  # compression would hold tokens back
            read_bufsize=_READ_BUFFER,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def get(self, path: str, key: str | None) -> Any:
        try:
            async with self._answer(
                "GET", path, key, silence=min(_LISTING_TIMEOUT, self.endpoint.read_timeout)
            ) as response:
                return await self._json(response)
        except Timeout as error:
            raise BackendUnreachable(error.message) from None

    async def post(self, path: str, body: Mapping[str, Any], key: str | None) -> Any:
        payload = _written(body)
        await self._take_slot()
        try:
            async with self._answer("POST", path, key, self.endpoint.read_timeout, payload) as response:
                return await self._json(response)
        finally:
            self._slots.release()

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any], key: str | None) -> AsyncGenerator[Reader]:
        payload = _written(body)
        await self._take_slot()
        try:
            async with self._answer("POST", path, key, self.endpoint.read_timeout, payload) as response:
                yield response.content
                await _drain(response.content)
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self.endpoint.connect_timeout):
                await self._slots.acquire()
        except TimeoutError:
            busy = f"all {self.endpoint.max_connections} connections to {self.endpoint.host} are busy"
            raise QueueFull(busy, retry_after=1.0) from None

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, key: str | None, silence: float, payload: bytes | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """An answer whose status is 200, or the error it is. `silence` is how many seconds of it are borne."""
        try:
            response = await self.send(method, path, key, silence, payload)
            try:
                if response.status != 200:
                    raise await self._refusal(response, key)
                yield response
            finally:
                response.close()  # keeps the connection if the answer was read to its end
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._failure(error, silence) from None

    async def send(
        self, method: str, path: str, key: str | None, silence: float, payload: bytes | None
    ) -> aiohttp.ClientResponse:
        """The request, and its answer, whatever its status. Raises aiohttp's errors."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return await self.carry(method, self.endpoint.url + path, headers, silence, payload)

    async def carry(
        self, method: str, url: str, headers: Mapping[str, str], silence: float, payload: bytes | None
    ) -> aiohttp.ClientResponse:
        """Send, and once more if a connection that had been used before was closed instead of answered.

        llama.cpp, for one, closes after every stream without having said so. Should the server have read the request
        after all, nothing is lost by its doing it twice.
        """
        timeout = aiohttp.ClientTimeout(connect=self.endpoint.connect_timeout, sock_read=silence)
        send = partial(
            self._session.request, method, url, headers=headers, data=payload, timeout=timeout, allow_redirects=False
        )
        _reused.set(False)
        try:
            return await send()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not _reused.get():
                raise
        return await send()

    async def _refusal(self, response: aiohttp.ClientResponse, key: str | None) -> Exception:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > _ERROR_LIMIT:
                break
        retry_after = response.headers.get("Retry-After", "")
        return self._meaning(self.endpoint.host, response.status, bytes(body), retry_after=retry_after, key=key)

    async def _json(self, response: aiohttp.ClientResponse) -> Any:
        try:
            return from_json(await response.read())
        except ValueError:
            raise Internal(f"{self.endpoint.host} answered with something that is not JSON") from None

    def _failure(self, error: Exception, silence: float) -> Exception:
        host = self.endpoint.host
        match error:
            case aiohttp.ConnectionTimeoutError():
                return BackendUnreachable(
                    f"{host} did not accept a connection within {self.endpoint.connect_timeout:g} s"
                )
            case TimeoutError():
                return Timeout(f"{host} was silent for {silence:g} s")
            case aiohttp.ClientSSLError():
                return BackendUnreachable(f"{host} offers no TLS that can be trusted: {_reason(error)}")
            case aiohttp.ClientConnectorError():
                gone = not isinstance(error, aiohttp.ClientConnectorDNSError)  # those fail and come back
                return BackendUnreachable(f"{host} cannot be reached: {_reason(error)}", gone=gone)
            case aiohttp.ClientResponseError():
                return BackendUnreachable(f"{host} does not speak HTTP as expected")
            case _:
                return BackendUnreachable(f"{host} closed the connection before its answer was complete")


_reused: Final[ContextVar[bool]] = ContextVar("reused")
"""Whether the connection that the current task got last had been used before."""


class _Pool(aiohttp.TCPConnector):
    """Connections without a limit. Sets `_reused`, of which a TraceConfig would hear at a tenth of a request's cost."""

    def __init__(self, tls_verify: bool) -> None:  # noqa: FBT001 -- its only argument
        super().__init__(limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=tls_verify)  # pyright: ignore[reportUnknownMemberType] -- one of its other options
        self._used = WeakSet[object]()

    async def connect(self, *request: Any, **options: Any) -> aiohttp.connector.Connection:
        connection = await super().connect(*request, **options)
        _reused.set(connection.protocol in self._used)
        self._used.add(connection.protocol)
        return connection


def _reason(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    cause = error.os_error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return cause.verify_message
    return os.strerror(cause.errno).lower() if cause.errno else "none of its addresses answers"


def _written(body: Mapping[str, Any]) -> bytes:
    return to_json(body, inf_nan_mode="constants")


async def _drain(reader: aiohttp.StreamReader) -> None:
    """Wait a moment for the end of an answer that has said all it had to, so that its connection can be used again."""
    if reader.at_eof():
        return
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_LINGER):
            while await reader.readany():
                pass
