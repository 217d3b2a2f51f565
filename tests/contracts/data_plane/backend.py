"""An instance behind the plane: plays the script of each request, and keeps what it saw.

It is what a service is: the same listener, interceptors, hosting and announcer, with the conformance API on top.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import grpc

from stackmesh import routes
from stackmesh.announcer import Announcer, announced
from stackmesh.config import Frozen
from stackmesh.errors import NotHosted
from stackmesh.hosting import HostedProviders, Hosting
from stackmesh.interceptors import Errors, Routed
from stackmesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from stackmesh.providers import Wanted
from stackmesh.routes import Api
from stackmesh.server import Listener, listening
from stackmesh.transport import INTERNAL_LISTENER, Options, internal_channel
from tests.contracts.data_plane import conformance as api

PROVIDER_TYPE: Final = "inline::conformance"
CALL_ID: Final = "x-test-call"
_LISTENER: Final[Options] = (*INTERNAL_LISTENER, ("grpc.http2.bdp_probe", 0))
"""With small buffers, so that what a backend does not read is the plane's to keep."""
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Seen:
    """One call, as it reached the backend."""

    method: str
    metadata: api.Metadata
    deadline: float | None
    """Seconds it was given when it arrived."""
    bodies: list[bytes] = field(default_factory=list)
    written: int = 0
    """Answers that flow control has taken."""
    ended: str = ""
    """`ok`, `failed` or `cancelled`; empty while it lasts."""
    ended_at: float = 0.0
    """time.monotonic()"""

    def values(self, key: str) -> list[str | bytes]:
        return [value for name, value in self.metadata if name == key]


class Body:
    """A request with the bytes it came as; reads like the message."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.message = api.CallRequest.FromString(raw)
        self.model_id = self.message.model_id


class Fixed:
    """A provider that serves what it was told to."""

    Config: ClassVar[type[Frozen]] = Frozen

    def __init__(self, served: Sequence[str]) -> None:
        self._served = tuple(served)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None: ...

    async def resolve(self, wanted: Wanted) -> str:
        name = wanted.provider_resource_id
        if name not in self._served:
            raise NotHosted(f"there is no {name!r} here")
        return name

    async def load(self, wanted: Wanted) -> None: ...

    async def unload(self, provider_resource_id: str) -> None: ...

    async def list_served(self) -> Sequence[str]:
        return self._served


class Backend:
    """An instance. `providers`: provider_id to the names it serves. `notice` hears of each call as it arrives."""

    def __init__(
        self,
        instance_id: str,
        providers: Mapping[str, Sequence[str]],
        *,
        notice: Callable[[Seen], None] = lambda _: None,
        routed: type[Routed] = Routed,
    ) -> None:
        self.instance_id = instance_id
        self.address = ""
        self.seen: list[Seen] = []
        self.released = asyncio.Event()
        """Set by a test to let held streams go on."""
        self._notice = notice
        self._routed = routed
        self._providers = {provider_id: Fixed(served) for provider_id, served in providers.items()}

    def of(self, call_id: str) -> list[Seen]:
        """The calls with this value of CALL_ID."""
        return [seen for seen in self.seen if call_id in seen.values(CALL_ID)]

    @asynccontextmanager
    async def running(self, registry: str | None, *, drain_seconds: float = 5.0) -> AsyncGenerator[Self]:
        """Serving, and registered there; leaves in good order."""
        hosted = HostedProviders(Api.API_INFERENCE, dict.fromkeys(self._providers, PROVIDER_TYPE), self._providers)
        async with AsyncExitStack() as stack:
            listener = await stack.enter_async_context(self._listening(hosted, drain_seconds))
            self.address = listener.address
            await hosted.refresh()
            if registry is not None:
                channel = await stack.enter_async_context(internal_channel(registry))
                announcer = Announcer(channel, self.instance_id, listener.address, lambda: hosted.reports)
                await stack.enter_async_context(announced(announcer))
                async with asyncio.timeout(20):
                    await announcer.wait_registered()
            yield self

    @asynccontextmanager
    async def _listening(self, hosted: HostedProviders, drain_seconds: float) -> AsyncGenerator[Listener]:
        def add_services(server: grpc.aio.Server) -> None:
            server.add_generic_rpc_handlers((self._handlers(),))
            add_ProviderServiceServicer_to_server(Hosting(hosted), server)

        async with listening(
            "127.0.0.1:0",
            options=_LISTENER,
            add_services=add_services,
            interceptors=(Errors(), self._routed(routes.load(api.descriptor_set()), self.instance_id)),
            drain_seconds=drain_seconds,
        ) as listener:
            yield listener

    def _handlers(self) -> grpc.GenericRpcHandler:
        def unary(path: str) -> tuple[str, Any]:
            async def behaviour(body: Body, context: Any) -> bytes:
                return await self._unary(path, body, context)

            return path.rpartition("/")[2], grpc.unary_unary_rpc_method_handler(behaviour, Body)

        return grpc.method_handlers_generic_handler(
            api.SERVICE,
            {
                **dict(map(unary, (api.UNARY, api.IDEMPOTENT_UNARY, api.DEFAULT_UNARY, api.HIDDEN_UNARY))),
                "ServerStream": grpc.unary_stream_rpc_method_handler(self._server_stream, Body),
                "ClientStream": grpc.stream_unary_rpc_method_handler(self._client_stream, Body),
                "Bidi": grpc.stream_stream_rpc_method_handler(self._bidi, Body),
            },
        )

    async def _unary(self, path: str, body: Body, context: Any) -> bytes:
        async with self._recorded(path, context) as seen:
            seen.bodies.append(body.raw)
            return await self._answer(body, context, seen)

    async def _server_stream(self, body: Body, context: Any) -> None:
        async with self._recorded(api.SERVER_STREAM, context) as seen:
            seen.bodies.append(body.raw)
            await self._play(body, context, seen)

    async def _client_stream(self, bodies: AsyncIterator[Body], context: Any) -> bytes:
        async with self._recorded(api.CLIENT_STREAM, context) as seen:
            first = None
            async for body in bodies:
                first = first or body
                seen.bodies.append(body.raw)
                if first.message.script.HasField("failure"):
                    break
            return await self._answer(first or Body(b""), context, seen)

    async def _bidi(self, bodies: AsyncIterator[Body], context: Any) -> None:
        async with self._recorded(api.BIDI, context) as seen:
            async for body in bodies:
                seen.bodies.append(body.raw)
                script = body.message.script
                if script.messages or script.stall or script.HasField("failure"):
                    await self._play(body, context, seen)
                    return
                if len(seen.bodies) == 1:
                    await self._begin(script, context)
                await context.write(self._response(body, len(seen.bodies) - 1, seen))
                seen.written += 1

    async def _answer(self, body: Body, context: Any, seen: Seen) -> bytes:
        script = body.message.script
        await self._begin(script, context)
        await _work(script)
        await _fail(script, context, 0)
        await _stall(script)
        return script.raw or self._response(body, 0, seen)

    async def _play(self, body: Body, context: Any, seen: Seen) -> None:
        script = body.message.script
        await self._begin(script, context)
        for index in range(script.messages):
            await _fail(script, context, index)
            await _work(script)
            await context.write(self._response(body, index, seen))
            seen.written += 1
            if script.hold_after == index + 1:
                await self.released.wait()
        await _fail(script, context, script.messages)
        await _stall(script)

    async def _begin(self, script: Any, context: Any) -> None:
        context.set_trailing_metadata(_metadata(script.trailing_metadata))
        if script.initial_metadata:
            await context.send_initial_metadata(_metadata(script.initial_metadata))

    def _response(self, body: Body, index: int, seen: Seen) -> bytes:
        size = body.message.script.size
        payload = bytes(size) if size else body.message.payload
        response = api.CallResponse(
            index=index, payload=payload, received=len(seen.bodies), instance_id=self.instance_id
        )
        return response.SerializeToString()

    @asynccontextmanager
    async def _recorded(self, method: str, context: Any) -> AsyncGenerator[Seen]:
        seen = Seen(method, tuple(context.invocation_metadata()), context.time_remaining())
        self.seen.append(seen)
        self._notice(seen)
        ended = "failed"
        try:
            yield seen
            ended = "ok"
        except asyncio.CancelledError:
            ended = "cancelled"
            raise
        finally:
            seen.ended, seen.ended_at = ended, time.monotonic()

    def __repr__(self) -> str:
        return f"<Backend {self.instance_id} {self.address} [{len(self.seen)} calls]>"


async def _work(script: Any) -> None:
    if script.delay_ms:
        await asyncio.sleep(script.delay_ms / 1000)


async def _stall(script: Any) -> None:
    if script.stall:
        await asyncio.Event().wait()  # until the call is cancelled or its deadline passes


async def _fail(script: Any, context: Any, done: int) -> None:
    if script.HasField("failure") and script.failure.after == done:
        failure = script.failure
        await context.abort(_STATUS[failure.code], failure.message, _metadata(script.trailing_metadata))


def _metadata(entries: Any) -> api.Metadata:
    return tuple((e.key, e.value if e.key.endswith("-bin") else e.value.decode()) for e in entries)
