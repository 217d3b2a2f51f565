"""A process that hosts a provider of each API but inference: `python -m tests.fakes.other_apis REGISTRY`.

Each knows `mine` and `theirs` as `theirs`, and `second`. It says its instance_id when it is ready, and leaves when its
standard input ends. A process of its own, because a test that forks must not have gRPC in a thread.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

from stackmesh.registry.v1.announce_service_pb2 import Beat, Leave
from stackmesh.routes import Api
from tests.fakes.instance import FakeProvider, running
from tests.fakes.up import environment

NAMES = {"mine": "theirs", "theirs": "theirs", "second": "second"}
PROVIDERS = {"guard": Api.API_SAFETY, "kv": Api.API_MEMORY, "runner": Api.API_AGENTS}


@contextmanager
def hosted(registry: str) -> Generator[str]:
    """While the process runs, announced to a registry: its instance_id."""
    command = (sys.executable, "-m", "tests.fakes.other_apis", registry)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as process:
        try:
            instance_id = process.stdout.readline().strip()
            assert instance_id, "it has ended"
            yield instance_id
        finally:
            process.stdin.close()


async def _host(registry: str) -> None:
    providers = {provider_id: FakeProvider(NAMES, api=api) for provider_id, api in PROVIDERS.items()}
    async with running(providers, registry) as instance:
        print(instance.instance_id, flush=True)  # noqa: T201 -- to who started it
        ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
        while not ended.done():
            await instance.say(beat=Beat())
            await asyncio.wait([ended], timeout=2)
        await instance.say(leave=Leave())


if __name__ == "__main__":
    asyncio.run(_host(sys.argv[1]))
