"""The conformance API without generated code: compiled once a process, used through its descriptors."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc

from stackmesh import routes

ROOT: Final = Path(__file__).parents[3]
FILE: Final = "stackmesh/conformance/v1/conformance_service.proto"
PACKAGE: Final = "stackmesh.conformance.v1"
SERVICE: Final = f"{PACKAGE}.ConformanceService"

UNARY: Final = f"/{SERVICE}/Unary"
SERVER_STREAM: Final = f"/{SERVICE}/ServerStream"
CLIENT_STREAM: Final = f"/{SERVICE}/ClientStream"
BIDI: Final = f"/{SERVICE}/Bidi"
IDEMPOTENT_UNARY: Final = f"/{SERVICE}/IdempotentUnary"
DEFAULT_UNARY: Final = f"/{SERVICE}/DefaultUnary"
HIDDEN_UNARY: Final = f"/{SERVICE}/HiddenUnary"


def _compile() -> descriptor_pb2.FileDescriptorProto:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.binpb"
        well_known = Path(protoc.__file__).parent / "_proto"
        folders = (ROOT / "tests" / "protos", ROOT / "protos", well_known)
        args = ["protoc", *(f"-I{path}" for path in folders), f"--descriptor_set_out={out}", FILE]
        assert protoc.main(args) == 0, "protoc failed"
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]


_FILE: Final = _compile()


@cache
def descriptor_set() -> bytes:
    """The mesh's own protos and the conformance API: what a plane is given."""
    files = descriptor_pb2.FileDescriptorSet.FromString(routes.bundled())
    files.file.append(_FILE)
    return files.SerializeToString()


def _message(name: str) -> Any:
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(FILE)
    except KeyError:
        pool.Add(_FILE)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


CallRequest: Final = _message("CallRequest")
CallResponse: Final = _message("CallResponse")
Script: Final = _message("Script")
Header: Final = _message("Header")
Failure: Final = _message("Failure")

SHAPES: Final = ("unary", "server_stream", "client_stream", "bidi")
Metadata = tuple[tuple[str, str | bytes], ...]
TIMEOUT: Final = 20.0


def request(model_id: str = "", *, payload: bytes = b"", **script: Any) -> Any:
    """A request with its script's fields as keywords."""
    return CallRequest(model_id=model_id, payload=payload, script=Script(**script))


def headers(metadata: Metadata) -> list[Any]:
    """Metadata for a script."""
    return [Header(key=k, value=v.encode() if isinstance(v, str) else v) for k, v in metadata]


async def ended(call: Any) -> grpc.StatusCode:
    """How a call ends. A stream is read to its end first: its status comes after its messages."""
    if isinstance(call, grpc.aio.UnaryStreamCall | grpc.aio.StreamStreamCall):
        with suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
    return await call.code()


class Client:
    """The methods on a channel. `always` is metadata of every call; without `timeout=` a call has TIMEOUT."""

    def __init__(self, channel: grpc.aio.Channel, always: Metadata = ()) -> None:
        self.channel = channel
        self._always = always

    def unary(self, message: Any, *, method: str = UNARY, **options: Any) -> Any:
        return self._call(self.channel.unary_unary, method, message, options)

    def server_stream(self, message: Any, **options: Any) -> Any:
        return self._call(self.channel.unary_stream, SERVER_STREAM, message, options)

    def start(self, shape: str, message: Any, **options: Any) -> Any:
        """A call of one request, by the name of its shape."""
        streams = shape in ("client_stream", "bidi")
        return getattr(self, shape)(iter([message]) if streams else message, **options)

    def client_stream(self, messages: Any = None, **options: Any) -> Any:
        return self._call(self.channel.stream_unary, CLIENT_STREAM, messages, options)

    def bidi(self, messages: Any = None, **options: Any) -> Any:
        return self._call(self.channel.stream_stream, BIDI, messages, options)

    def raw_unary(self, body: bytes, *, method: str = UNARY, **options: Any) -> Any:
        """Bytes out, bytes back; any method string."""
        return self.channel.unary_unary(method)(body, **self._options(options))

    def _call(self, shape: Any, method: str, messages: Any, options: dict[str, Any]) -> Any:
        call = shape(
            method, request_serializer=CallRequest.SerializeToString, response_deserializer=CallResponse.FromString
        )
        return call(messages, **self._options(options))

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        metadata = (*options.pop("metadata", ()), *self._always)
        return {"timeout": TIMEOUT, **options, "metadata": metadata}
