"""The least a Python gRPC proxy can do. `python -m benchmarks.bare_proxy BACKEND` prints its address."""

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from stackmesh import transport

SERVICE = "stackmesh.inference.v1.InferenceService"


async def main(backend: str) -> None:
    channel: Any = transport.internal_channel(backend)
    call = channel.unary_unary(f"/{SERVICE}/ChatCompletion")
    open_stream = channel.unary_stream(f"/{SERVICE}/StreamChatCompletion")

    async def unary(request: bytes, _context: Any) -> bytes:
        return await call(request)

    async def stream(request: bytes, context: Any) -> None:
        read, write = open_stream(request).read, context.write
        while (message := await read()) is not grpc.aio.EOF:
            await write(message)

    handlers: dict[str, Any] = {
        "ChatCompletion": grpc.unary_unary_rpc_method_handler(unary),
        "StreamChatCompletion": grpc.unary_stream_rpc_method_handler(stream),
    }
    server = grpc.aio.server(options=transport.PUBLIC_LISTENER)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)  # until the one who started it closes it


uvloop.run(main(sys.argv[1]))
