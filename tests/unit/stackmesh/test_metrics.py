import asyncio
import socket
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from stackmesh.metrics import exposing
from stackmesh.process import StartError


def scrape(address: str) -> str:
    with urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return answer.read().decode()


async def test_gauges_are_read_over_http():
    registry = CollectorRegistry()
    Gauge("answer", "of everything", registry=registry).set(42)
    async with exposing("127.0.0.1:0", registry) as address:
        assert "answer 42.0" in await asyncio.to_thread(scrape, address)
    with pytest.raises(OSError):
        await asyncio.to_thread(scrape, address)


async def test_a_taken_port_is_a_start_error():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(StartError, match=r"metrics_address: cannot listen on 127"):
            async with exposing(address, CollectorRegistry()):
                pass
