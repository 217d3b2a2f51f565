"""An inference instance that costs as little as it can: answers made beforehand, a request read for one number.

    python -m benchmarks.backend REGISTRY

It hosts the model `bench` of the provider `bench` and keeps itself in the registry as every instance does. Each call
is answered with the same message; a stream has `max_tokens` of them. It prints its address and runs until its
stdin is closed.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from typing import Any, Final

import grpc
import uvloop

from benchmarks import requests
from services.inference.providers.echo import Echo, EchoConfig
from stackmesh.announcer import Announcer, announced
from stackmesh.common.v1 import content_pb2
from stackmesh.hosting import HostedProviders, Hosting
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.provider.v1.provider_service_pb2_grpc import add_ProviderServiceServicer_to_server
from stackmesh.routes import Api
from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel

MODEL: Final = "bench"
PROVIDER: Final = "bench"
PROVIDER_TYPE: Final = "inline::echo"

_TEXT: Final = " word"
_ANSWER: Final = pb.ChatCompletionResponse(
    completion_message=content_pb2.CompletionMessage(
        content=content_pb2.Content(items=[content_pb2.ContentItem(text=_TEXT * 50)])
    ),
    usage=pb.Usage(prompt_tokens=50, completion_tokens=50),
).SerializeToString()
_CHUNK: Final = pb.StreamChatCompletionResponse(
    event=pb.ChatCompletionEvent(event_type=pb.CHAT_COMPLETION_EVENT_TYPE_PROGRESS, text=_TEXT)
).SerializeToString()


class CannedAnswers(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self._handlers: dict[str, Any] = {
            requests.CHAT: grpc.unary_unary_rpc_method_handler(self._answer),
            requests.STREAM_CHAT: grpc.unary_stream_rpc_method_handler(self._stream),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)

    async def _answer(self, _request: bytes, _context: Any) -> bytes:
        return _ANSWER

    async def _stream(self, request: bytes, context: Any) -> None:
        write = context.write
        for _ in range(pb.ChatCompletionRequest.FromString(request).sampling_params.max_tokens):
            await write(_CHUNK)


async def main(registry: str) -> None:
    api = Api.API_INFERENCE
    async with Echo(EchoConfig(models=(MODEL,))) as echo, internal_channel(registry) as channel:
        hosted = HostedProviders(api, {PROVIDER: PROVIDER_TYPE}, {PROVIDER: echo})
        await hosted.refresh()

        def add_services(server: grpc.aio.Server) -> None:
            add_ProviderServiceServicer_to_server(Hosting(hosted), server)
            server.add_generic_rpc_handlers((CannedAnswers(),))

        async with listening("127.0.0.1:0", options=INTERNAL_LISTENER, add_services=add_services) as listener:
            announcer = Announcer(channel, f"bench-{secrets.token_hex(4)}", listener.address, lambda: hosted.reports)
            async with announced(announcer):
                print(listener.address, flush=True)
                await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
