"""Every failure the mesh knows, and what each looks like on the wire.

    MeshError
    ├── InvalidArgument      InvalidField, InvalidProviderData, InvalidRoute, ContextExceeded, InvalidPageToken,
    │                        AmbiguousProvider, AmbiguousName, BackendRejected, RequestTooLarge
    ├── NotFound             ResourceNotFound, ProviderNotFound, NotHosted
    ├── AlreadyExists        ResourceExists
    ├── FailedPrecondition   NotServing, NoInstance, Declared
    ├── Aborted              Conflict
    ├── OutOfRange           RevisionGone
    ├── ResourceExhausted    QueueFull, RateLimited, StoreFull
    ├── Unimplemented        Unsupported
    ├── Unavailable          RegistryUnreachable, BackendUnreachable, ShuttingDown, WrongInstance
    ├── Unauthenticated      BackendUnauthenticated
    ├── PermissionDenied     BackendPermissionDenied
    ├── DeadlineExceeded     Timeout
    ├── Cancelled
    └── Internal

An error is raised where it is understood, becomes a google.rpc.Status in one interceptor, and is the same
exception again in `stackmesh.client`. `protos/stackmesh/common/v1/error_reason.proto` tells users what each means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN: Final = "stackmesh"
DETAILS_KEY: Final = "grpc-status-details-bin"
MESSAGE_LIMIT: Final = 1000
"""Bytes of a status message. Longer ones, with their details, would not fit into a peer's header limit."""
DETAILS_LIMIT: Final = 1000
_FIELD_LIMIT: Final = 200
_DESCRIPTION_LIMIT: Final = 400
_VALUE_LIMITS: Final = (800, 400, 200, 100, 50, 25)
"""Bytes of each value in ErrorInfo's metadata: the first of these with which all of them fit."""


class MeshError(Exception):
    """A failure with a decided status code, reason and message. The message is shown to the caller."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = ""

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})

    def details(self) -> Iterable[Message]:
        """The google.rpc details beside ErrorInfo."""
        return ()


class InvalidArgument(MeshError): ...


class InvalidField(InvalidArgument):
    """A field of the request is wrong. `description` continues the field's name: "is empty"."""

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field} {description}")
        self.field = field
        self.description = description

    def details(self) -> Iterable[Message]:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=clip(self.field, _FIELD_LIMIT), description=clip(self.description, _DESCRIPTION_LIMIT)
        )
        return (error_details_pb2.BadRequest(field_violations=[violation]),)


class InvalidProviderData(InvalidArgument): ...


class InvalidRoute(InvalidArgument): ...


class ContextExceeded(InvalidArgument):
    def __init__(self, prompt_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the model's context holds {context_tokens}",
            metadata={"prompt_tokens": str(prompt_tokens), "context_tokens": str(context_tokens)},
        )


class InvalidPageToken(InvalidArgument): ...


class AmbiguousProvider(InvalidArgument): ...


class AmbiguousName(InvalidArgument): ...


class BackendRejected(InvalidArgument): ...


class RequestTooLarge(InvalidArgument): ...


class NotFound(MeshError): ...


class ResourceNotFound(NotFound): ...


class ProviderNotFound(NotFound): ...


class NotHosted(NotFound): ...


class AlreadyExists(MeshError): ...


class ResourceExists(AlreadyExists): ...


class FailedPrecondition(MeshError): ...


class NotServing(FailedPrecondition): ...


class NoInstance(FailedPrecondition): ...


class Declared(FailedPrecondition): ...


class Aborted(MeshError): ...


class Conflict(Aborted): ...


class OutOfRange(MeshError): ...


class RevisionGone(OutOfRange): ...


class ResourceExhausted(MeshError):
    """`retry_after` is in seconds; None leaves it to the caller."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.retry_after = retry_after

    def details(self) -> Iterable[Message]:
        if self.retry_after is None:
            return ()
        delay = Duration()
        delay.FromMilliseconds(int(self.retry_after * 1000))
        return (error_details_pb2.RetryInfo(retry_delay=delay),)


class QueueFull(ResourceExhausted): ...


class RateLimited(ResourceExhausted): ...


class StoreFull(ResourceExhausted): ...


class Unimplemented(MeshError): ...


class Unsupported(Unimplemented): ...


class Unavailable(MeshError): ...


class RegistryUnreachable(Unavailable): ...


class BackendUnreachable(Unavailable):
    """`gone`: nothing listens there. Otherwise it may have been a moment's trouble."""

    gone: bool = False

    def __init__(self, message: str, *, gone: bool = False, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata=metadata)
        self.gone = gone


class ShuttingDown(Unavailable): ...


class WrongInstance(Unavailable): ...


class Unauthenticated(MeshError): ...


class BackendUnauthenticated(Unauthenticated): ...


class PermissionDenied(MeshError): ...


class BackendPermissionDenied(PermissionDenied): ...


class DeadlineExceeded(MeshError): ...


class Timeout(DeadlineExceeded): ...


class Cancelled(MeshError): ...


class Internal(MeshError): ...


_C = grpc.StatusCode
_TABLE: Final[Mapping[type[MeshError], tuple[grpc.StatusCode, str]]] = {
    InvalidArgument: (_C.INVALID_ARGUMENT, ""),
    InvalidField: (_C.INVALID_ARGUMENT, "INVALID_FIELD"),
    InvalidProviderData: (_C.INVALID_ARGUMENT, "INVALID_PROVIDER_DATA"),
    InvalidRoute: (_C.INVALID_ARGUMENT, "INVALID_ROUTE"),
    ContextExceeded: (_C.INVALID_ARGUMENT, "CONTEXT_EXCEEDED"),
    InvalidPageToken: (_C.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN"),
    AmbiguousProvider: (_C.INVALID_ARGUMENT, "AMBIGUOUS_PROVIDER"),
    AmbiguousName: (_C.INVALID_ARGUMENT, "AMBIGUOUS_NAME"),
    BackendRejected: (_C.INVALID_ARGUMENT, "BACKEND_REJECTED"),
    RequestTooLarge: (_C.INVALID_ARGUMENT, "REQUEST_TOO_LARGE"),
    NotFound: (_C.NOT_FOUND, ""),
    ResourceNotFound: (_C.NOT_FOUND, "RESOURCE_NOT_FOUND"),
    ProviderNotFound: (_C.NOT_FOUND, "PROVIDER_NOT_FOUND"),
    NotHosted: (_C.NOT_FOUND, "NOT_HOSTED"),
    AlreadyExists: (_C.ALREADY_EXISTS, ""),
    ResourceExists: (_C.ALREADY_EXISTS, "RESOURCE_EXISTS"),
    FailedPrecondition: (_C.FAILED_PRECONDITION, ""),
    NotServing: (_C.FAILED_PRECONDITION, "NOT_SERVING"),
    NoInstance: (_C.FAILED_PRECONDITION, "NO_INSTANCE"),
    Declared: (_C.FAILED_PRECONDITION, "DECLARED"),
    Aborted: (_C.ABORTED, ""),
    Conflict: (_C.ABORTED, "CONFLICT"),
    OutOfRange: (_C.OUT_OF_RANGE, ""),
    RevisionGone: (_C.OUT_OF_RANGE, "REVISION_GONE"),
    ResourceExhausted: (_C.RESOURCE_EXHAUSTED, ""),
    QueueFull: (_C.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    RateLimited: (_C.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    StoreFull: (_C.RESOURCE_EXHAUSTED, "STORE_FULL"),
    Unimplemented: (_C.UNIMPLEMENTED, ""),
    Unsupported: (_C.UNIMPLEMENTED, "UNSUPPORTED"),
    Unavailable: (_C.UNAVAILABLE, ""),
    RegistryUnreachable: (_C.UNAVAILABLE, "REGISTRY_UNREACHABLE"),
    BackendUnreachable: (_C.UNAVAILABLE, "BACKEND_UNREACHABLE"),
    ShuttingDown: (_C.UNAVAILABLE, "SHUTTING_DOWN"),
    WrongInstance: (_C.UNAVAILABLE, "WRONG_INSTANCE"),
    Unauthenticated: (_C.UNAUTHENTICATED, ""),
    BackendUnauthenticated: (_C.UNAUTHENTICATED, "BACKEND_UNAUTHENTICATED"),
    PermissionDenied: (_C.PERMISSION_DENIED, ""),
    BackendPermissionDenied: (_C.PERMISSION_DENIED, "BACKEND_PERMISSION_DENIED"),
    DeadlineExceeded: (_C.DEADLINE_EXCEEDED, ""),
    Timeout: (_C.DEADLINE_EXCEEDED, "TIMEOUT"),
    Cancelled: (_C.CANCELLED, ""),
    Internal: (_C.INTERNAL, "INTERNAL"),
}
_BY_REASON: Final = {reason: error for error, (_, reason) in _TABLE.items() if reason}
_BY_CODE: Final = {code: error for error, (code, reason) in _TABLE.items() if not reason}

for _error, (_code, _reason) in _TABLE.items():
    _error.code, _error.reason = _code, _reason


def to_status(error: MeshError) -> status_pb2.Status:
    """The error as google.rpc.Status, small enough for every peer: what is too long is cut, and no detail is left out.

    A caller knows the error by its ErrorInfo: without one, a name that is ambiguous would be a name that is wrong.
    """
    status = status_pb2.Status(code=_number(error.code), message=clip(error.message, MESSAGE_LIMIT))
    others = [_packed(detail) for detail in error.details()]
    status.details.append(_info(error, DETAILS_LIMIT - sum(other.ByteSize() for other in others)))
    status.details.extend(others)
    return status


def _info(error: MeshError, room: int) -> AnyMessage:
    """ErrorInfo in at most `room` bytes: with as much of its metadata as fits."""
    for limit in _VALUE_LIMITS:
        metadata = {key: clip(value, limit) for key, value in error.metadata.items()}
        info = _packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
        if info.ByteSize() <= room:
            return info
    return _packed(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def trailers(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries a status."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """What a callee raised, as the same exception here."""
    details = _details(tuple(error.trailing_metadata()))
    message = error.details() or error.code().name
    info = next((d for d in details if isinstance(d, error_details_pb2.ErrorInfo)), None)
    kind = _BY_REASON.get(info.reason) if info is not None and info.domain == DOMAIN else None
    kind = kind or _BY_CODE.get(error.code(), Internal)
    made = kind.__new__(kind)
    MeshError.__init__(made, message, metadata=dict(info.metadata) if info is not None else None)
    if isinstance(made, ResourceExhausted):
        retry = next((d for d in details if isinstance(d, error_details_pb2.RetryInfo)), None)
        made.retry_after = retry.retry_delay.ToMilliseconds() / 1000 if retry is not None else None
    if isinstance(made, InvalidField):
        bad = next((d for d in details if isinstance(d, error_details_pb2.BadRequest)), None)
        violation = bad.field_violations[0] if bad is not None and bad.field_violations else None
        made.field = violation.field if violation is not None else ""
        made.description = violation.description if violation is not None else message
    return made


_DETAIL_TYPES: Final = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.BadRequest,
)


def _details(metadata: Sequence[tuple[str, str | bytes]] | None) -> list[Message]:
    for key, value in metadata or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                packed = status_pb2.Status.FromString(value).details
            except DecodeError:
                return []
            return [
                kind.FromString(d.value)
                for d in packed
                for kind in _DETAIL_TYPES
                if d.TypeName() == kind.DESCRIPTOR.full_name
            ]
    return []


def _number(code: grpc.StatusCode) -> int:
    return code_pb2.Code.Value(code.name)


def clip(text: str, limit: int) -> str:
    """The text, cut to `limit` bytes of whole characters."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "..."
