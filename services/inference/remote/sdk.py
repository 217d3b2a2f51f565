"""How an adapter reaches its backend through a vendor's SDK, of the kind that Stainless generates.

The SDK writes each request: where it goes, and with which headers. It is sent over the pool of http.py, with the
limits and the errors of that one, in the place of the SDK's own, which reads a stream at several times the cost.
What the SDK finds in its environment is not used: no key, URL, header or proxy.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, Protocol, Self

import aiohttp
import httpx

from services.inference.remote.errors import Refusal, refusal
from services.inference.remote.http import Endpoint, Http
from stackmesh.errors import BackendUnreachable

_ANSWER: Final = "stackmesh.answer"
"""The extension of an httpx.Response that holds the answer it stands for."""


class Client(Protocol):
    """An SDK's async client: its generic methods, which the vendors' documents use where there is none of its own.

    All endpoints are reached by them. A method of its own would walk through every parameter, and import its types
    while others wait.
    """

    _custom_headers: Mapping[str, str]

    async def get(self, path: str, *, cast_to: type[httpx.Response], options: Any) -> httpx.Response: ...

    async def post(
        self, path: str, *, cast_to: type[httpx.Response], content: bytes | None, options: Any
    ) -> httpx.Response: ...


class Sdk(Protocol):
    """An SDK's package."""

    @property
    def __name__(self) -> str: ...

    @property
    def APIStatusError(self) -> type[Exception]: ...

    @property
    def APIConnectionError(self) -> type[Exception]: ...

    @property
    def omit(self) -> object:
        """Stands for a header that is not to be sent."""
        ...


class SdkHttp(Http):
    """The Transport to one endpoint, whose requests an SDK writes.

    `make` gives the SDK's client, over this httpx.AsyncClient and with no retries of its own. Paths are below `root`,
    which the endpoint's URL lacks.
    """

    _client: Client

    def __init__(
        self,
        endpoint: Endpoint,
        sdk: Sdk,
        make: Callable[[httpx.AsyncClient], Client],
        root: str,
        refusal: Refusal = refusal,
    ) -> None:
        super().__init__(endpoint, refusal)
        self._sdk = sdk
        self._make = make
        self._root = root

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        for name in (self._sdk.__name__, "httpx"):  # at DEBUG they log whole requests, credentials and all
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = self._make(
            httpx.AsyncClient(
                transport=_Carrier(self.carry),
                headers={"Accept-Encoding": "identity"},  # compression would hold tokens back
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # a cookie would tie one caller to another
                trust_env=False,
            )
        )
        self._client._custom_headers = {}  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] -- the environment's
        return self

    async def send(
        self, method: str, path: str, key: str | None, silence: float, payload: bytes | None
    ) -> aiohttp.ClientResponse:
        options = {
            "headers": {"Authorization": self._sdk.omit if key is None else f"Bearer {key}"},
            "timeout": httpx.Timeout(silence, connect=self.endpoint.connect_timeout),
        }
        try:
            if method == "GET":
                answer = await self._client.get(self._root + path, cast_to=httpx.Response, options=options)
            else:
                answer = await self._client.post(
                    self._root + path, cast_to=httpx.Response, content=payload, options=options
                )
        except self._sdk.APIStatusError as refused:
            answer: httpx.Response = vars(refused)["response"]
        except self._sdk.APIConnectionError as failed:
            if isinstance(failed.__cause__, aiohttp.ClientError | OSError):  # TimeoutError is one
                raise failed.__cause__ from None
            raise BackendUnreachable(f"{self.where} cannot be asked") from None
        return answer.extensions[_ANSWER]


Carry = Callable[[str, str, Mapping[str, str], float, bytes | None], Awaitable[aiohttp.ClientResponse]]


class _Carrier(httpx.AsyncBaseTransport):
    """Sends an SDK's requests over the pool. The SDK gets to see the status of an answer, and we the answer."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        silence: float = request.extensions["timeout"]["read"]
        answer = await self._carry(request.method, str(request.url), request.headers, silence, request.content or None)
        return httpx.Response(answer.status, extensions={_ANSWER: answer})
