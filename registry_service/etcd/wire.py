"""etcd's methods, by the paths they are called at, and the shorthand for its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from stackmesh.etcd.v1 import etcd_pb2 as pb

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound="Answer")


class Answer(Protocol):
    """What every answer of etcd is."""

    @property
    def header(self) -> pb.ResponseHeader: ...

    @staticmethod
    def FromString(data: bytes, /) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, A]):
    """A method of etcd: what it takes and gives."""

    path: str
    question: type[Q]
    answer: type[A]


RANGE: Final = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN: Final = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
COMPACT: Final = Method("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
WATCH: Final = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
GRANT: Final = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE: Final = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
KEEP_ALIVE: Final = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)
TIME_TO_LIVE: Final = Method(
    "/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse
)
AUTHENTICATE: Final = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)


def end_of(prefix: bytes) -> bytes:
    """The key after all that begin with `prefix`, whose last byte is ASCII."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def read(key: bytes, *, keys_only: bool = False) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, keys_only=keys_only))


def written_at(key: bytes, revision: int) -> pb.Compare:
    """The condition that this revision last wrote the key; 0: that there is none."""
    return pb.Compare(target=pb.COMPARE_TARGET_MOD, key=key, mod_revision=revision)


def exists(key: bytes) -> pb.Compare:
    return pb.Compare(target=pb.COMPARE_TARGET_MOD, result=pb.COMPARE_RESULT_GREATER, key=key, mod_revision=0)
