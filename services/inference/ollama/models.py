"""What an Ollama server has: models that run, and models that are pulled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.inference.ollama.names import Names
from services.inference.remote.errors import sensible
from services.inference.remote.listing import Listing
from services.inference.remote.transport import Transport
from stackmesh.errors import Unsupported


class Models:
    """Each list is asked for at most every two seconds."""

    def __init__(self, transport: Transport, names: Names) -> None:
        self._transport = transport
        self._running = Listing(self._ask_what_runs, names, transport.where)
        self._there = Listing(self._ask_what_is_there, names, transport.where) if names.loads else self._running

    async def running(self, key: str | None) -> Sequence[str]:
        """Models in memory (GET /api/ps), and those that run elsewhere for this server: Ollama's cloud models."""
        return await self._running.names(key)

    async def resolve(self, name: str, key: str | None) -> str:
        """The server's own name for a model that runs, or that can be made to."""
        return await self._there.resolve(name, key)

    def forget(self) -> None:
        """Something was loaded, pulled or unloaded."""
        self._running.forget()
        self._there.forget()

    async def _ask_what_runs(self, key: str | None) -> Sequence[str]:
        pulled = await self._ask("/api/tags", key)
        try:
            loaded = await self._ask("/api/ps", key)
        except Unsupported:  # a server without memory of its own, as ollama.com, or older than v0.1.38
            loaded = pulled
        return _names([*loaded, *(model for model in pulled if model.get("remote_host"))])

    async def _ask_what_is_there(self, key: str | None) -> Sequence[str]:
        return _names([*await self._ask("/api/ps", key), *await self._ask("/api/tags", key)])

    async def _ask(self, path: str, key: str | None) -> Sequence[dict[str, Any]]:
        found = await self._transport.get(path, key)
        with sensible(self._transport.where):
            return [{**model, "name": str(model["name"])} for model in found["models"]]


def _names(models: Sequence[dict[str, Any]]) -> Sequence[str]:
    """Each once."""
    return list(dict.fromkeys(model["name"] for model in models))
