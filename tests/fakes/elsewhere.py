"""A fake in a process of its own, for when its work must not count as that of the loop under test.

async with elsewhere("tests.fakes.tgi_server:TGIServer", token_seconds=0.05) as root: ...
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.fakes.vendors import named


@asynccontextmanager
async def elsewhere(fake: str, *, token_seconds: float) -> AsyncGenerator[str]:
    """Its URL, without a path. Its model takes so long for a token."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, fake, str(token_seconds), stdin=pipe, stdout=pipe
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            root = (await process.stdout.readline()).decode().strip()
        assert root, f"{fake} did not start"
        yield root
    finally:
        process.kill()
        await process.wait()


async def _serve(fake: str, token_seconds: float) -> None:
    async with named(fake)() as server:
        server.model.token_seconds = token_seconds
        print(server.root, flush=True)  # noqa: T201 -- whoever has started it reads this
        await asyncio.to_thread(sys.stdin.read)  # until they are gone


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], float(sys.argv[2])))
