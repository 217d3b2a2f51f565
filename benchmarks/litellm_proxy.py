"""LiteLLM's proxy in a virtual environment of its own, with one model of a server of the OpenAI dialect.

    python -m venv /tmp/litellm && /tmp/litellm/bin/pip install 'litellm[proxy]'

One worker, no key, no database, no callbacks, no logging of calls: the least it can do. It makes no connection but to
that server.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path
from typing import Final

import aiohttp
import yaml

from benchmarks.processes import BenchmarkError, Child, running
from stackmesh.ports import free_port

_START_SECONDS: Final = 90.0
_RETRY_SECONDS: Final = 0.2
_QUIET: Final = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it fetches prices from GitHub
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",  # reads no .env
    "NO_PROXY": "*",
}


def version(venv: Path) -> str:
    """The version of LiteLLM that is installed there. Raises BenchmarkError when there is none, or no proxy."""
    if not (venv / "bin" / "python").exists():
        raise BenchmarkError(f"{venv} is no virtual environment; make one: python -m venv {venv}")
    folders = [str(folder) for folder in venv.glob("lib/python*/site-packages")]
    found = {distribution.name.lower(): distribution for distribution in metadata.distributions(path=folders)}
    if not {"litellm", "litellm-proxy-extras"} <= found.keys():
        raise BenchmarkError(f"{venv} has no LiteLLM proxy; install it: {venv}/bin/pip install 'litellm[proxy]'")
    return found["litellm"].version


@asynccontextmanager
async def running_proxy(
    venv: Path, server: str, model: str, folder: Path, cpus: Collection[int]
) -> AsyncGenerator[tuple[Child, str]]:
    """The proxy while the body runs, and its URL. It serves `model` of `server`, a URL, under that name."""
    file, port = folder / "litellm.yaml", free_port()
    params = {"model": f"openai/{model}", "api_base": server, "api_key": "none"}
    tree = {
        "model_list": [{"model_name": model, "litellm_params": params}],
        "litellm_settings": {"telemetry": False, "turn_off_message_logging": True},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # as the mesh, it asks for none
    }
    file.write_text(yaml.safe_dump(tree))
    arguments = ("litellm.proxy.proxy_cli", "--config", str(file), "--host", "127.0.0.1", "--port", str(port))
    python, environment = venv / "bin" / "python", {**os.environ, **_QUIET}
    async with running(
        "LiteLLM", *arguments, folder=folder, cpus=cpus, python=python, environment=environment
    ) as child:
        url = f"http://127.0.0.1:{port}"
        await _until_alive(f"{url}/health/liveliness", child)
        yield child, f"{url}/v1"


async def _until_alive(url: str, child: Child) -> None:
    end = time.perf_counter() + _START_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            child.check()
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except (aiohttp.ClientError, TimeoutError):
                pass
            if time.perf_counter() > end:
                raise child.failed(f"was not alive within {_START_SECONDS:.0f} s")
            await asyncio.sleep(_RETRY_SECONDS)
