"""The call shapes of the client: a request made from keywords, an answer or a stream, errors as exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, cast

import grpc

from stackmesh.client.options import Options
from stackmesh.errors import Cancelled, from_rpc_error

P = ParamSpec("P")
Req = TypeVar("Req")
Res = TypeVar("Res")


class Paged(Protocol):
    """A request for one page of a list."""

    page_token: str


class Page(Protocol):
    """One page of a list."""

    @property
    def next_page_token(self) -> str: ...


PagedReq = TypeVar("PagedReq", bound=Paged)
PageRes = TypeVar("PageRes", bound=Page)


@contextmanager
def mesh_errors() -> Generator[None]:
    """Whatever the callee raised, raised here again."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # grpc.aio raises the same for a call the other side cancelled, and nobody cancelled this task.
        raise Cancelled("the call was cancelled on the way") from None


class Unary(Generic[P, Req, Res]):
    """A method that answers once."""

    def __init__(
        self, request: Callable[P, Req], method: grpc.aio.UnaryUnaryMultiCallable[Req, Res], options: Options
    ) -> None:
        self._request = request
        self._method = method
        self._options = options

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Res:
        return await unary(self._method, self._request(*args, **kwargs), self._options)


class Streaming(Generic[P, Req, Res]):
    """A method that answers with a stream. The await raises whatever is wrong before the first message."""

    def __init__(
        self, request: Callable[P, Req], method: grpc.aio.UnaryStreamMultiCallable[Req, Res], options: Options
    ) -> None:
        self._request = request
        self._method = method
        self._options = options

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Stream[Res]:
        request = self._request(*args, **kwargs)
        stream = Stream(self._method(request, timeout=self._options.timeout, metadata=self._options.metadata()))
        await stream.begin()
        return stream


class Stream(Generic[Res]):
    """The messages of one call, as they come. `aclose`, leaving its `async with`, or dropping it cancels the call."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, Res]) -> None:
        self._call = call
        self._first: Res | None = None
        self._ended = False

    async def begin(self) -> None:
        """Wait for the first message, or raise what is wrong."""
        self._first = await self._read()

    async def _read(self) -> Res | None:
        if self._ended:
            return None
        with mesh_errors():
            message = await self._call.read()
        if message is grpc.aio.EOF:
            self._ended = True
            return None
        return cast("Res", message)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Res:
        message, self._first = self._first, None
        if message is None:
            message = await self._read()
        if message is None:
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        """End the call, wherever it is. The other side stops its work."""
        self._ended = True
        self._first = None
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._call.cancel()  # of an ended call: nothing

    def __repr__(self) -> str:
        return f"<Stream [{'ended' if self._ended else 'open'}]>"


async def unary(method: grpc.aio.UnaryUnaryMultiCallable[Req, Res], request: Req, options: Options) -> Res:
    """One call, one answer."""
    with mesh_errors():
        return await method(request, timeout=options.timeout, metadata=options.metadata())


async def pages(
    method: grpc.aio.UnaryUnaryMultiCallable[PagedReq, PageRes], request: PagedReq, options: Options
) -> AsyncGenerator[PageRes]:
    """Every page of a list, each asked for when it is needed."""
    while True:
        page = await unary(method, request, options)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
