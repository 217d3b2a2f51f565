"""Streams one answer. Start a mesh first: stackmesh up"""

import asyncio

from stackmesh.client import Client, user


async def main() -> None:
    async with Client("127.0.0.1:8321") as client:
        answer = await client.inference.stream_chat_completion(
            model_id="smollm2-135m-instruct", messages=[user("What is a mesh?")]
        )
        async for chunk in answer:
            print(chunk.event.text, end="", flush=True)


asyncio.run(main())
