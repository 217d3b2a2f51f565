"""What happens around every call a server answers.

`Errors` is outermost: it turns what was raised into a status, and lets nothing else out. `Routed` comes next in
processes that host providers: it accepts what the gateway has routed, and keeps it for the provider.

What they make of a method's handler they make once: made for each call, it would cost a small call a twentieth.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
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
Behaviour = Callable[[Any, Any], Awaitable[Any]]
"""(request or request iterator, context) -> the answer, or None if it was written to the context."""


class Errors(grpc.aio.ServerInterceptor):
    """Gives every failure its decided status. What nobody decided is INTERNAL with a request id, and logged."""

    def __init__(self) -> None:
        self._made = _Made()

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        return handler and self.guard(handler, handler_call_details)

    def guard(self, handler: Handler, handler_call_details: Details) -> Handler:
        """The same handler, its failures decided; for a server that guards some of its handlers only."""
        method = handler_call_details.method
        return self._made.of(method, handler, lambda: _guarded(handler, method))


def _guarded(handler: Handler, method: str) -> Handler:
    run, parse = _behaviour(handler), _parser(handler.request_deserializer)
    # A stream's requests are parsed as they are read.
    early, late = (parse, None) if handler.request_streaming else (None, parse)

    async def call(request: Any, context: Any) -> Any:
        try:
            return await run(request if late is None else late(request), context)
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:  # noqa: BLE001 -- the outermost block decides about all of them
            status = to_status(_decide(error, method, _request_id(context)))
            code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
            await context.abort(code, status.message, trailers(status))

    return _handler(handler, call, early)


def _request_id(context: Any) -> str:
    return _by_key(context.invocation_metadata()).get(headers.REQUEST_ID) or uuid.uuid4().hex


class _Made:
    """What was made of the handler of each method. For one that is another at each call it is made anew."""

    def __init__(self) -> None:
        self._by_method: dict[str, tuple[Handler, Handler]] = {}

    def of(self, method: str, handler: Handler, make: Callable[[], Handler]) -> Handler:
        before = self._by_method.get(method)
        if before is None or before[0] is not handler:
            before = self._by_method[method] = handler, make()
        return before[1]


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
        self._made = _Made()

    async def intercept_service(self, continuation: Continuation, handler_call_details: Details) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        sent = _by_key(handler_call_details.invocation_metadata)
        meant = sent.get(headers.INSTANCE_ID)
        if meant is not None and meant != self._instance_id:
            return _refusing(
                handler, WrongInstance("the call is meant for an instance that is no longer at this address")
            )
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return handler
        try:
            calls.enter(_call(sent, method))  # for good: gRPC gives each call a task, and with it a context, of its own
        except InvalidRoute as error:
            return _refusing(handler, error)
        field = method.route.field
        if not field or method.client_streaming:
            return handler
        return self._made.of(method.path, handler, lambda: _agreeing(handler, field))


def _agreeing(handler: Handler, field: str) -> Handler:
    """The same handler, for requests alone whose field names what the call was routed by."""
    run = _behaviour(handler)

    async def call(request: Any, context: Any) -> Any:
        _agree(getattr(request, field), calls.current().resource, field)
        return await run(request, context)

    return _handler(handler, call, handler.request_deserializer)


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


def _by_key(metadata: Any) -> Mapping[str, Any]:
    """A call's metadata; of several values, the first. Those of keys that do not end in -bin are strings."""
    return dict(reversed(metadata or ()))


_MAKE: Mapping[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _handler(like: Handler, behaviour: Behaviour, deserialize: Callable[[bytes], Any] | None) -> Handler:
    """A handler of the same shape."""
    return _MAKE[like.request_streaming, like.response_streaming](behaviour, deserialize, like.response_serializer)


def _behaviour(handler: Handler) -> Behaviour:
    """What a handler does, as a coroutine, so that a client's cancellation arrives as CancelledError, not as
    GeneratorExit.
    """
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def write_all(request: Any, context: Any) -> None:
        async with aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                await context.write(message)

    return write_all
