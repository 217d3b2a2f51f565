"""What the types of resources have in common: names that are registered, looked up, changed and taken away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from stackmesh.client.calls import pages, unary
from stackmesh.client.options import Options
from stackmesh.registry.v1 import resources_pb2
from stackmesh.resources import Kind

R = TypeVar("R", resources_pb2.Model, resources_pb2.Shield, resources_pb2.MemoryBank, resources_pb2.Agent)


class Named(Generic[R]):
    """One type. `messages` and `stub` are its service's, whose names follow from the kind's."""

    def __init__(self, kind: Kind, messages: Any, stub: Any, options: Options) -> None:
        self._kind = kind
        self._messages = messages
        self._stub = stub
        self._options = options

    async def get(self, name: str) -> R:
        """The one called `name`, with its serving state. Raises ResourceNotFound, naming the nearest."""
        return await self._call("Get", name, {})

    async def list(self) -> AsyncGenerator[R]:
        """Every one, in the order of their names; pages are fetched as they are needed."""
        noun = "".join(word.capitalize() for word in self._kind.plural.split("_"))
        request = getattr(self._messages, f"List{noun}Request")()
        async for page in pages(getattr(self._stub, f"List{noun}"), request, self._options):
            for resource in getattr(page, self._kind.plural):
                yield resource

    async def unregister(self, name: str, *, expected_revision: int | None = None) -> int:
        """Remove the registration; returns the revision from which it is gone.

        With `expected_revision` only if it is at that revision. Raises ResourceNotFound, Conflict.
        """
        response = await self._send("Unregister", name, {"expected_revision": expected_revision})
        return response.revision

    async def _call(self, verb: str, name: str, fields: Mapping[str, object]) -> R:
        return getattr(await self._send(verb, name, fields), self._kind.word)

    async def _send(self, verb: str, name: str, fields: Mapping[str, object]) -> Any:
        """Fields that are None stay unset."""
        method = f"{verb}{self._kind.message.DESCRIPTOR.name}"
        make: type[Message] = getattr(self._messages, f"{method}Request")
        request = make(**{f"{self._kind.word}_id": name}, **fields)
        return await unary(getattr(self._stub, method), request, self._options)
