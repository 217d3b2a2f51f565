"""The Python client of a mesh: one channel to the gateway, typed calls, typed errors.

    from stackmesh.client import Client, user

    async with Client("127.0.0.1:8321") as client:
        answer = await client.inference.stream_chat_completion(model_id="smollm2", messages=[user("Hello!")])
        async for chunk in answer:
            print(chunk.event.text, end="", flush=True)

Methods of `client.inference` take the fields of the request message as keywords; the message's own signature is the
method's, so a type checker knows every field and the client repeats none. Deadline and provider data belong to the
client; `with_options` gives one with others over the same channel:

    slow = client.with_options(timeout=300, provider_data={"together_api_key": key})

`client.models`, `shields`, `memory_banks` and `agents` register, get, list, update and unregister; `client.watch` tells
what changes.

Failures are the exceptions of `stackmesh.errors`, before the first token and in the middle of a stream alike.
"""

from stackmesh.client.calls import Stream
from stackmesh.client.client import Client
from stackmesh.client.messages import assistant, system, text, user
from stackmesh.client.watch import Change, What

__all__ = ["Change", "Client", "Stream", "What", "assistant", "system", "text", "user"]
