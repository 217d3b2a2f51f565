"""A backend that can be killed: `python -m ... REGISTRY INSTANCE_ID PROVIDER_ID SERVED...`.

It says `READY address` when it is registered, then `SEEN id` for each call.
"""

import asyncio
import sys

from tests.contracts.data_plane.backend import CALL_ID, Backend, Seen


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def notice(seen: Seen) -> None:
    for call_id in seen.values(CALL_ID):
        say(f"SEEN {call_id}")


async def main(registry: str, instance_id: str, provider_id: str, *served: str) -> None:
    async with Backend(instance_id, {provider_id: served}, notice=notice).running(registry) as backend:
        say(f"READY {backend.address}")
        await asyncio.Event().wait()  # until it is killed


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
