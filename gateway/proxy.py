"""The data plane: a table of exactly the methods that are routed, and what becomes of a call that fails here.

What is not in the table is left to the other handlers of the server, and to grpc's own UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from gateway.balancer import Balancer
from gateway.forwarder import Forwarder
from gateway.routing import Routing
from stackmesh import headers
from stackmesh.config import GatewayConfig
from stackmesh.errors import Internal, MeshError, to_status, trailers
from stackmesh.routes import Method

log = logging.getLogger(__name__)

Behaviour = Callable[[Any, Any], Awaitable[Any]]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Proxy(grpc.GenericRpcHandler):
    """Forwards the methods of the table, those of the registry to it, the others by name."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        by_name: Routing,
        to_registry: Routing,
        balancer: Balancer,
        limits: GatewayConfig,
    ) -> None:
        self._handlers = {
            path: _handler(
                method, Forwarder(method, to_registry if method.route.registry else by_name, balancer, limits)
            )
            for path, method in methods.items()
            if not method.route.gateway
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)

    def __repr__(self) -> str:
        return f"<Proxy of {len(self._handlers)} methods>"


def _handler(method: Method, forwarder: Forwarder) -> Any:
    shapes: dict[tuple[bool, bool], tuple[Callable[[Any], Any], Behaviour]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, forwarder.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, forwarder.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, forwarder.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, forwarder.stream_stream),
    }
    make, behaviour = shapes[method.client_streaming, method.server_streaming]
    return make(_decided(method.path, behaviour))


def _decided(path: str, behaviour: Behaviour) -> Behaviour:
    """The behaviour, with every failure given its status. What nobody decided is INTERNAL with a request id."""

    async def call(request: Any, context: Any) -> Any:
        try:
            return await behaviour(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except grpc.aio.InternalError:  # what writing to a client that has gone raises
            raise asyncio.CancelledError from None
        except MeshError as error:
            log.info("%s %s: %s: %s", path, _request_id(context), error.code.name, error.message)
            status = to_status(error)
        except Exception:
            request_id = _request_id(context)
            log.exception("%s %s: unexpected", path, request_id)
            status = to_status(Internal(f"internal error; the log has more under request id {request_id}"))
        return await context.abort(_CODES[status.code], status.message, trailers(status))

    return call


def _request_id(context: Any) -> str:
    for key, value in context.invocation_metadata():
        if key == headers.REQUEST_ID:
            return str(value)[:128]
    return uuid.uuid4().hex
