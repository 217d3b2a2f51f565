"""What etcd's refusals mean to a registry. etcd tells most of them apart by their text alone."""

from __future__ import annotations

from typing import Final

import grpc

from stackmesh.errors import Conflict, MeshError, RegistryUnreachable, RequestTooLarge, RevisionGone, StoreFull, clip

_SHOWN: Final = 300


class Unsent(RegistryUnreachable):
    """This member has not begun to do what was asked, so another may be asked, whatever it was."""


class NotNow(Unsent):
    """It may be otherwise in a moment: there is no leader, or too much to do."""


class Refused(RegistryUnreachable):
    """etcd does not let this user in, or not do that."""


class TokenEnded(Refused):
    """The token is no longer good. Nothing has been done."""


class AnswerTooLarge(RegistryUnreachable):
    """What was asked for is more than a connection takes at once. Any member would say the same."""


_FULL: Final = (
    "the registry's store is full: compact and defragment etcd, then `etcdctl alarm disarm` "
    "(or raise its --quota-backend-bytes)"
)
_TOO_LARGE: Final = "this is larger than the registry's store takes (etcd's --max-request-bytes, 1.5 MiB by default)"
_SPEAKS_TLS: Final = "; if it speaks TLS, add ?tls=system or ?tls=FILE to registry.store"
"""A member that does hangs up on whoever does not, without a word."""

_BY_TEXT: Final[tuple[tuple[str, type[MeshError], str], ...]] = (
    ("required revision has been compacted", RevisionGone, "the revision has been compacted"),
    ("required revision is a future revision", RevisionGone, "the revision lies in the future"),
    ("requested lease not found", Conflict, "the lease has ended"),
    ("database space exceeded", StoreFull, _FULL),
    ("request is too large", RequestTooLarge, _TOO_LARGE),
    ("received message larger than max", RequestTooLarge, _TOO_LARGE),  # says the member, of what it was asked
    ("Received message larger than max", AnswerTooLarge, ""),  # says our own gRPC, of what it was answered
    ("invalid auth token", TokenEnded, "the token has ended"),
    ("revision of auth store is old", TokenEnded, "the token has ended"),
    ("invalid user ID or password", Refused, "wrong user or password"),
    # Also when it began to want them after we had asked: then the token is none, and has ended.
    ("user name is empty", TokenEnded, "it wants a user and a password: etcd://USER:PASSWORD@..."),
    ("user name not found", Refused, "wrong user or password"),
    ("permission denied", Refused, "its user may not read and write the keys of this store"),
    ("failed to connect", Unsent, ""),
    ("errors resolving", Unsent, ""),
    ("no leader", NotNow, "its cluster has no leader"),
    ("too many requests", NotNow, "it is overloaded"),
)
"""What the text holds, what it means, what to say; without that the text itself is said."""

_ANSWERS: Final = (RevisionGone, Conflict, StoreFull, RequestTooLarge)
"""These say it all; the others name the member too."""


def of_text(text: str, address: str) -> MeshError:
    """What a member's refusal means."""
    for part, kind, message in _BY_TEXT:
        if part in text:
            return kind(message) if kind in _ANSWERS else kind(_at(address, message or _cause(text)))
    return RegistryUnreachable(_at(address, _cause(text)))


def of_call(error: grpc.aio.AioRpcError, address: str, *, tls: bool) -> MeshError:
    """What the failure of a call means, over a connection with or without TLS."""
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return silent(address)
    text = error.details() or error.code().name
    if not tls and "failed to connect" in text and text.endswith("Socket closed"):
        text += _SPEAKS_TLS
    return of_text(text, address)


def silent(address: str) -> RegistryUnreachable:
    """A member that does not answer."""
    return RegistryUnreachable(_at(address, "it does not answer"))


def confused(address: str) -> RegistryUnreachable:
    """A member that says what nobody asked for."""
    return RegistryUnreachable(_at(address, "it tells a watch what another one asked for"))


def hung_up(address: str) -> RegistryUnreachable:
    """A member that ends a conversation without a word."""
    return RegistryUnreachable(_at(address, "it has hung up"))


def unready(address: str, *, connected: bool) -> Unsent:
    """A member with which a connection neither comes about nor fails, or that does not say whether it lets us in."""
    return Unsent(_at(address, "it does not answer" if connected else "connecting takes too long"))


def _at(address: str, why: str) -> str:
    return f"the registry's store, etcd at {address}, cannot be used: {why}"


def _cause(text: str) -> str:
    """The last of the causes that gRPC strings together, which is the first there was."""
    cause = text.rpartition("last error: ")[2]
    for noise in ("SSL_ERROR_SSL: ", "OPENSSL_internal:"):
        cause = cause.rpartition(noise)[2]
    return clip(cause, _SHOWN)
