"""What happens around every call a server answers.

`Errors` is outermost: it turns what was raised into a status, and lets nothing else out. `Routed` comes next in
processes that host providers: it accepts what the gateway has routed, and keeps it for the provider.
"""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from stackmesh import calls, headers
from stackmesh.errors import (
    Cancelled,
    Internal,
    InvalidArgument,
    InvalidRoute,
    MeshError,
    Timeout,
    WrongInstance,
    from_rpc_error,
    to_status,
    trailers,
)
from stackmesh.routes import Method

log = logging.getLogger(__name__)

Details = grpc.HandlerCallDetails
Handler = Any  # grpc.RpcMethodHandler; its stubs cannot say which of the four behaviours is set
Continuation = Callable[[Details], Awaitable[Handler]]
Around = Callable[[Any, Any], AbstractAsyncContextManager[None]]
"""(request or request iterator, context) -> the block the call runs in."""


class Errors(grpc.aio.ServerInterceptor):
    """Gives every failure its decided status. What nobody decided is INTERNAL with a request id, and logged."""

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        return handler and self.guard(handler, handler_call_details)

    def guard(self, handler: Handler, handler_call_details: Details) -> Handler:
        """The same handler, its failures decided; for a server that guards some of its handlers only."""
        method = handler_call_details.method
        request_id = _headers(handler_call_details).get(headers.REQUEST_ID) or uuid.uuid4().hex

        def around(_request: object, context: Any) -> _Deciding:
            return _Deciding(context, method, request_id)

        return wrap(handler, around, parse=_parser(handler.request_deserializer))


class _Deciding:
    """Ends the call with the status of what is raised in the block.

    Written out, as `_Entered` is: made of a generator, a block costs a call several times as much.
    """

    __slots__ = ("_context", "_method", "_request_id")

    def __init__(self, context: Any, method: str, request_id: str) -> None:
        self._context = context
        self._method = method
        self._request_id = request_id

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            status = to_status(_decide(error, self._method, self._request_id))
            code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
            await self._context.abort(code, status.message, trailers(status))


class Decided:
    """Takes services for a server without interceptors, each of their handlers inside `errors`."""

    def __init__(self, server: grpc.aio.Server, errors: Errors) -> None:
        self._server = server
        self._errors = errors

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(tuple(_Guarded(handler, self._errors) for handler in handlers))

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """The generic handlers do."""


class _Guarded(grpc.GenericRpcHandler):
    def __init__(self, inner: grpc.GenericRpcHandler, errors: Errors) -> None:
        self._inner = inner
        self._errors = errors

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._inner.service(handler_call_details)
        return handler and self._errors.guard(handler, handler_call_details)


def _parser(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The same, but what is no such message is the caller's mistake: gRPC would answer UNKNOWN."""
    if deserialize is None:
        return None

    def parse(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError:
            raise InvalidArgument(
                "the request cannot be parsed: it is damaged, of another type, or nested too deeply"
            ) from None

    return parse


def _decide(error: Exception, method: str, request_id: str) -> MeshError:
    match error:
        case MeshError():
            log.info("%s %s: %s: %s", method, request_id, error.code.name, error.message)
            return error
        case grpc.aio.AioRpcError():
            known = from_rpc_error(error)
            log.info("%s %s: callee answered %s: %s", method, request_id, known.code.name, known.message)
            return known if not isinstance(known, Cancelled) else Internal(f"a callee gave up; request id {request_id}")
        case grpc.aio.InternalError():  # grpc could not write to the client
            log.info("%s %s: the client is gone", method, request_id)
            return Cancelled("the client is gone")
        case TimeoutError():
            return Timeout("the call took longer than its deadline")
        case _:
            log.error("%s %s: unexpected", method, request_id, exc_info=error)
            return Internal(f"internal error; the log has more under request id {request_id}")


class Routed(grpc.aio.ServerInterceptor):
    """Accepts calls of routed methods only with the gateway's headers, and only if the body agrees with them.

    A call of any method that is meant for another instance is refused before its request is even parsed: addresses are
    used again, and who sent it has not heard yet.
    """

    def __init__(self, methods: Mapping[str, Method], instance_id: str) -> None:
        """`instance_id` is this process's own."""
        self._methods = methods
        self._instance_id = instance_id

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        sent = _headers(handler_call_details)
        meant = sent.get(headers.INSTANCE_ID)
        if handler is not None and meant is not None and meant != self._instance_id:
            return _refusing(
                handler, WrongInstance("the call is meant for an instance that is no longer at this address")
            )
        method = self._methods.get(handler_call_details.method)
        if handler is None or method is None:
            return handler

        def around(request: Any, _context: object) -> _Entered:
            call = _call(sent, method)
            if method.route.field and not method.client_streaming:
                _agree(getattr(request, method.route.field), call.resource, method.route.field)
            return _Entered(call)

        return wrap(handler, around)


class _Entered:
    """The call is the current one in the block."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: calls.Call) -> None:
        self._call = call

    async def __aenter__(self) -> None:
        self._token = calls.enter(self._call)

    async def __aexit__(self, *exc_info: object) -> None:
        calls.leave(self._token)


def _refusing(handler: Handler, error: MeshError) -> Handler:
    """A handler of the same shape that answers with the error, and reads nothing."""

    async def refuse(_request: object, _context: object) -> None:
        raise error

    return _MAKE[handler.request_streaming, handler.response_streaming](refuse)


def _call(sent: Mapping[str, str], method: Method) -> calls.Call:
    provider_id = sent.get(headers.PROVIDER_ID)
    resource_id = sent.get(headers.PROVIDER_RESOURCE_ID)
    resource = sent.get(headers.RESOURCE)
    if not provider_id or (method.route.resource_type and not (resource_id and resource)):
        raise InvalidRoute("this is a service of the mesh: call it through the gateway")
    return calls.Call(
        provider_id=provider_id,
        provider_resource_id=resource_id or "",
        resource=resource or "",
        request_id=sent.get(headers.REQUEST_ID, ""),
        traceparent=sent.get(headers.TRACEPARENT, ""),
        provider_data=sent.get(headers.PROVIDER_DATA),
    )


def _agree(named: str, routed: str, field: str) -> None:
    if named != routed:
        raise InvalidRoute(f"the call was routed as {routed!r}, but {field} says {named!r}")


def _headers(details: Details) -> Mapping[str, Any]:
    """The call's metadata by key; of several values, the first. Those of keys that do not end in -bin are strings."""
    return dict(reversed(details.invocation_metadata or ()))


_MAKE: Mapping[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def wrap(handler: Handler, around: Around, parse: Callable[[bytes], Any] | None = None) -> Handler:
    """The same handler, each call of it inside `around(request, context)`.

    With `parse`, requests are parsed in there too, so `around` gets them as bytes.
    """
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    generates = inspect.isasyncgenfunction(behaviour)
    late = parse if not handler.request_streaming else None  # a stream's requests are parsed as they are read

    async def call(request: Any, context: Any) -> Any:
        async with around(request, context):
            if late is not None:
                request = late(request)
            if not generates:
                return await behaviour(request, context)
            # As a coroutine, so that a client's cancellation arrives as CancelledError, not as GeneratorExit.
            async with aclosing(behaviour(request, context)) as messages:
                async for message in messages:
                    await context.write(message)
        return None

    make = _MAKE[handler.request_streaming, handler.response_streaming]
    deserialize = None if late is not None else parse or handler.request_deserializer
    return make(call, deserialize, handler.response_serializer)
