"""The load generator for servers of the OpenAI dialect: takes the order `calls` of benchmarks.load, the target a URL.

Its streams' messages are not counted, `chunks` of its answer is 0: a call is whole, or the process fails.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any, Final

import aiohttp
import uvloop

from benchmarks import requests
from benchmarks.load import CALL_SECONDS

_END: Final = b"data: [DONE]\n\n"


class HttpLoad:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def calls(self, target: str, model: str, concurrency: int, seconds: float, chunks: int) -> object:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": requests.SAID}],
            "temperature": 0.0,
            **({"max_tokens": chunks, "stream": True} if chunks else {}),
        }
        end = time.perf_counter() + seconds
        calls = await asyncio.gather(*(self._caller(target, body, end) for _ in range(concurrency)))
        return {"calls": sum(calls), "chunks": 0}

    async def _caller(self, target: str, body: dict[str, Any], end: float) -> int:
        calls = 0
        while time.perf_counter() < end:
            async with self._session.post(f"{target}/chat/completions", json=body) as response:
                answer = await response.read()
            if response.status != 200 or ("stream" in body and not answer.endswith(_END)):
                raise ValueError(f"{target} answered {response.status}: {answer[-1000:]!r}")
            calls += 1
        return calls


async def main() -> None:
    limit = aiohttp.ClientTimeout(total=CALL_SECONDS)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limit) as session:
        load = HttpLoad(session)
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if order.pop("order") != "calls":
                raise ValueError(f"there is no such order: {line}")
            print(json.dumps(await load.calls(**order)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
