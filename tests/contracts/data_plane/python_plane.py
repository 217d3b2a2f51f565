"""The python plane, given another descriptor set than its own: `python -m ... CONFIG DESCRIPTORS`."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from gateway import server
from stackmesh.config import Config, load


async def main(config: Config, descriptor_set: bytes) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with server.running(config, descriptor_set=descriptor_set):
        await stopping.wait()


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    uvloop.run(main(load(Path(sys.argv[1]), os.environ), Path(sys.argv[2]).read_bytes()))
