import asyncio
from contextlib import asynccontextmanager

import grpc

from stackmesh.server import listening
from stackmesh.transport import INTERNAL_LISTENER, internal_channel


@asynccontextmanager
async def slow_to_greet(address, seconds):
    """A relay to `address` whose first bytes back come late, as those of a busy machine do."""

    async def relay(reader, writer, delay=0.0):
        while data := await reader.read(65536):
            await asyncio.sleep(delay)
            delay = 0.0
            writer.write(data)
        writer.close()

    async def accept(reader, writer):
        back_reader, back_writer = await asyncio.open_connection(*address.split(":"))
        await asyncio.gather(relay(reader, back_writer), relay(back_reader, writer, seconds))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_peer_that_is_slow_to_greet_is_waited_for():
    async with listening("127.0.0.1:0", options=INTERNAL_LISTENER, add_services=lambda _: None) as listener:
        async with slow_to_greet(listener.address, 0.3) as address:
            async with internal_channel(address) as channel:
                try:
                    await channel.unary_unary("/no.Such/Method")(b"", timeout=5)
                except grpc.aio.AioRpcError as error:
                    code = error.code()
            await asyncio.sleep(0.05)  # the relay sees the channel closed
    assert code is grpc.StatusCode.UNIMPLEMENTED
