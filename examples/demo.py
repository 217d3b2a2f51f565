"""Starts a whole mesh, streams one answer through its gateway, says what the gateway added, and stops: `make demo`.

python -m examples.demo [mesh.yaml]    with the providers and models of a file of yours
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import yaml
from rich.console import Console

from stackmesh import headers
from stackmesh.client import Client, user
from stackmesh.config import DEFAULT, ConfigError, load
from stackmesh.errors import MeshError, from_rpc_error
from stackmesh.inference.v1.inference_service_pb2 import ChatCompletionRequest, SamplingParams, Usage
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from stackmesh.inspect.v1.inspect_service_pb2 import RouteInfo
from stackmesh.ports import free_port
from stackmesh.registry.v1.resources_pb2 import ServingState
from stackmesh.supervisor import StartFailed, commands, same_code, supervised
from stackmesh.supervisor.view import Lines
from stackmesh.transport import internal_channel

PROMPT = "In two sentences: what is a mesh of services?"
START_LIMIT = 60.0
CALL_LIMIT = 60.0
PAIRS = 101


def main(arguments: Sequence[str]) -> int:
    try:
        text = Path(arguments[0]).read_text(encoding="utf-8") if arguments else DEFAULT
        asyncio.run(_demo(text))
    except TimeoutError:
        print(f"the demo failed: the mesh was not ready within {START_LIMIT:g} s", file=sys.stderr)
    except (ConfigError, StartFailed, MeshError, OSError) as error:
        print(f"the demo failed: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    else:
        return 0
    return 1


async def _demo(text: str) -> None:
    with TemporaryDirectory(prefix="stackmesh-demo-") as name:
        path = Path(name) / "mesh.yaml"
        path.write_text(_apart(text, path.parent), encoding="utf-8")
        config = load(path, os.environ)
        view = Lines(Console(highlight=False))
        services = commands(config, path)
        async with supervised(services, path.parent / "logs", same_code(os.environ), view.show) as supervisor:
            async with Client(config.gateway.address, timeout=CALL_LIMIT) as client:
                async with asyncio.timeout(START_LIMIT):
                    await supervisor.ready()
                    route = await _first_route(client)
                await _stream_one_answer(client, route.identifier)
                await _show_what_the_gateway_adds(config.gateway.address, route)


def _apart(text: str, folder: Path) -> str:
    """The configuration on free ports and in a folder of its own, so that a running mesh is in nobody's way."""
    tree: dict[str, Any] = yaml.safe_load(text)
    tree["registry"] = {"store": f"sqlite:///{folder / 'registry.db'}", "address": f"127.0.0.1:{free_port()}"}
    tree["gateway"] = {"address": f"127.0.0.1:{free_port()}"}
    return yaml.safe_dump(tree)


async def _first_route(client: Client) -> RouteInfo:
    """The first model that can be called. Its provider may still be introducing itself."""
    while True:
        async for route in client.inspect.routes():
            if route.serving_state == ServingState.SERVING_STATE_SERVING:
                return route
        await asyncio.sleep(0.05)


async def _stream_one_answer(client: Client, model: str) -> None:
    print(f"\n{model}> {PROMPT}\n")
    began, first, usage = time.perf_counter(), 0.0, Usage()
    answer = await client.inference.stream_chat_completion(
        model_id=model, messages=[user(PROMPT)], sampling_params=SamplingParams(max_tokens=120, seed=1)
    )
    async for chunk in answer:
        print(chunk.event.text, end="", flush=True)
        if chunk.event.text and not first:
            first = time.perf_counter()
        usage = chunk.event.usage
    seconds = time.perf_counter() - first
    print(f"\n\n{usage.completion_tokens} tokens, {(usage.completion_tokens - 1) / seconds:.1f} tokens/s")
    print(f"time to first token: {(first - began) * 1000:.1f} ms")


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to the model: through the gateway, or straight to the process with the headers a gateway would set."""

    stub: InferenceServiceStub
    metadata: tuple[tuple[str, str], ...]

    async def refusal(self, request: ChatCompletionRequest) -> float:
        """Milliseconds until the service has refused a call."""
        began = time.perf_counter()
        try:
            await self.stub.StreamChatCompletion(request, metadata=self.metadata, timeout=CALL_LIMIT).read()
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return (time.perf_counter() - began) * 1000
            raise from_rpc_error(error) from None
        raise MeshError("the service accepted a call without messages")


async def _show_what_the_gateway_adds(gateway: str, route: RouteInfo) -> None:
    """With calls that reach the service and are refused there: the model's own time varies by more than a gateway's."""
    request = ChatCompletionRequest(model_id=route.identifier)
    resolved = (
        (headers.PROVIDER_ID, route.provider_id),
        (headers.PROVIDER_RESOURCE_ID, route.provider_resource_id),
        (headers.RESOURCE, route.identifier),
    )
    async with AsyncExitStack() as stack:
        front, back = [
            InferenceServiceStub(await stack.enter_async_context(internal_channel(address)))
            for address in (gateway, route.addresses[0])
        ]
        through, direct = _Way(front, ()), _Way(back, resolved)
        for way in (through, direct):
            await way.refusal(request)
        added = [await _pair(through, direct, request, swap=bool(index % 2)) for index in range(PAIRS)]
    print(
        f"of it the gateway added: {statistics.median(added):.1f} ms (median of {PAIRS} pairs, through it and past it)"
    )


async def _pair(through: _Way, direct: _Way, request: ChatCompletionRequest, *, swap: bool) -> float:
    """How much longer it took through the gateway, each way being the first as often as the other."""
    if swap:
        return -await direct.refusal(request) + await through.refusal(request)
    return await through.refusal(request) - await direct.refusal(request)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
