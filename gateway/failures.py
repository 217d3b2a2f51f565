"""What a failed call says about the instance it went to. All texts are those of gRPC core in grpcio 1.85.

gRPC gives its own failures the codes and the form of an answer. What tells them apart is their text, that they carry
no metadata, and the state of the channel. tests/unit/gateway/test_failures.py causes each one with real sockets.
"""

from __future__ import annotations

from typing import Final

import grpc

from stackmesh.errors import WrongInstance, from_rpc_error

_NOT_CONNECTED: Final = "failed to connect to all addresses"
_REFUSED: Final = "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"
_AFTER_GOAWAY: Final = "Stream removed (GOAWAY received"  # the peer named a last stream, and ours came later
_LOST: Final = "Stream removed ("
_DEADLINE: Final = "Stream removed (Deadline Exceeded"
_NOT_OURS: Final = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection or the stream broke, so that this is nobody's answer."""
    if error.code() in _NOT_OURS or error.trailing_metadata():
        return False
    details = error.details() or ""
    return details.startswith((_NOT_CONNECTED, _LOST))


def unprocessed(error: grpc.aio.AioRpcError, channel: grpc.aio.Channel) -> bool:
    """Whether the call certainly never reached the peer's application."""
    if error.code() is not grpc.StatusCode.UNAVAILABLE or error.trailing_metadata() or error.initial_metadata():
        return False
    details = error.details() or ""
    if details.startswith(_NOT_CONNECTED):  # on a ready channel it is a peer that speaks of a backend of its own
        return channel.get_state() is not grpc.ChannelConnectivity.READY
    return details.startswith((_REFUSED, _AFTER_GOAWAY))


def stranger(error: grpc.aio.AioRpcError) -> bool:
    """Whether another process than the instance has its address now. It has processed nothing of the call."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and isinstance(from_rpc_error(error), WrongInstance)


def timed_out(error: grpc.aio.AioRpcError) -> bool:
    """Whether this side's deadline passed, not one of the peer's."""
    return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and (error.details() or "").startswith(
        (_DEADLINE, "Deadline Exceeded")
    )
