"""The mesh a benchmark runs: its YAML, and a client that waits until it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import yaml

from benchmarks.processes import BenchmarkError, Child
from stackmesh.inference.v1 import inference_service_pb2 as pb
from stackmesh.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from stackmesh.ports import free_port
from stackmesh.transport import CLIENT_CHANNEL

_NOT_YET: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
"""What a mesh that is still starting answers."""
_RETRY_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class MeshFile:
    """A configuration with addresses of its own."""

    path: Path
    registry: str
    gateway: str


def write(folder: Path, models: Sequence[Mapping[str, str]], providers: Sequence[Mapping[str, Any]]) -> MeshFile:
    """Write `folder/mesh.yaml` with these entries; its registry's database is in the folder too."""
    mesh = MeshFile(folder / "mesh.yaml", registry=f"127.0.0.1:{free_port()}", gateway=f"127.0.0.1:{free_port()}")
    tree = {
        "version": 1,
        "registry": {"store": f"sqlite:///{folder / 'registry.db'}", "address": mesh.registry},
        "gateway": {"address": mesh.gateway, "snapshot_file": None},
        "providers": {"inference": [*providers]},
        "models": [*models],
    }
    mesh.path.write_text(yaml.safe_dump(tree))
    return mesh


def write_hosting(mesh: MeshFile, provider: Mapping[str, Any]) -> Path:
    """Write the same mesh as a process sees it that hosts this provider and no other."""
    tree = yaml.safe_load(mesh.path.read_text())
    tree |= {"providers": {"inference": [provider]}, "models": []}
    file = mesh.path.with_name(f"{provider['provider_id']}.yaml")
    file.write_text(yaml.safe_dump(tree))
    return file


async def first_chunk(
    gateway: str, request: pb.ChatCompletionRequest, seconds: float, children: Sequence[Child]
) -> None:
    """Call again and again until a chunk of text arrives.

    Raises BenchmarkError when none does in time, or one of the processes that should answer has ended.
    """
    await _again(gateway, seconds, children, lambda channel: _first_text(channel, request))


async def until_answered(
    gateway: str, request: pb.ChatCompletionRequest, seconds: float, children: Sequence[Child]
) -> None:
    """As `first_chunk`, with unary calls."""
    await _again(gateway, seconds, children, lambda channel: _answer(channel, request))


async def _again(
    gateway: str, seconds: float, children: Sequence[Child], call: Callable[[grpc.aio.Channel], Awaitable[None]]
) -> None:
    end = time.perf_counter() + seconds
    while True:
        for child in children:
            child.check()
        # A new channel each time: a refused connection must not cost its back-off.
        async with grpc.aio.insecure_channel(gateway, options=CLIENT_CHANNEL) as channel:
            try:
                await call(channel)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _NOT_YET:
                    raise BenchmarkError(f"the mesh answered {error.code().name}: {error.details()}") from None
                if time.perf_counter() > end:
                    raise BenchmarkError(f"no answer within {seconds:.0f} s; the last was: {error.details()}") from None
            else:
                return
        await asyncio.sleep(_RETRY_SECONDS)


async def _answer(channel: grpc.aio.Channel, request: pb.ChatCompletionRequest) -> None:
    await InferenceServiceStub(channel).ChatCompletion(request, timeout=30.0)


async def _first_text(channel: grpc.aio.Channel, request: pb.ChatCompletionRequest) -> None:
    stream = InferenceServiceStub(channel).StreamChatCompletion(request, timeout=30.0)
    async for chunk in stream:
        if chunk.event.WhichOneof("delta"):
            stream.cancel()
            return
    raise BenchmarkError("the mesh answered without a word")
