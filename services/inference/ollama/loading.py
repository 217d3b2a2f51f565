"""Has an Ollama server load, pull and let go of models."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from services.inference.ollama.errors import failure
from services.inference.ollama.keep_alive import AT_ONCE, FOR_EVER, seconds
from services.inference.ollama.models import Models
from services.inference.ollama.request import Defaults, nothing
from services.inference.remote.lines import ObjectDecoder
from services.inference.remote.transport import Transport
from stackmesh.errors import BackendUnreachable, NotServing, Timeout, Unsupported

log = logging.getLogger(__name__)

_SOON: Final = 60.0
"""Seconds before which a model that is lost again is not loaded again: where two do not fit into memory, the one that
is loaded drives the other out, which would be loaded and do the same.
"""


class Loader:
    """`transport` is one that bears the silence in which models are loaded."""

    def __init__(
        self,
        transport: Transport,
        models: Models,
        defaults: Defaults,
        patience: float,
        *,
        pulls: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keep_alive = FOR_EVER if defaults.keep_alive is None else defaults.keep_alive
        self._transport = transport
        self._models = models
        self._kept = replace(defaults, keep_alive=keep_alive)
        self._patience = patience
        self._pulls = pulls
        self._clock = clock
        self._soon = min(_SOON, seconds(keep_alive))
        self._taken: dict[str, float | None] = {}
        """What was loaded here, and when; None until it is."""

    async def load(self, name: str, key: str | None) -> None:
        """Returns when the model runs.

        Raises NotServing if it is not there and may not or cannot be pulled, or if it was driven out soon after it had
        been loaded; Timeout if neither ends nor gets on for `patience` seconds.
        """
        if name in await self._models.running(key):
            return
        loaded_at = self._taken.get(name)
        if loaded_at is not None and self._clock() - loaded_at < self._soon:
            raise NotServing(
                f"{self._transport.where} has unloaded {name} soon after it was loaded, as if it and others do not fit "
                "into memory together; it is loaded again in a while"
            )
        self._taken[name] = None
        await self._load_or_pull(name, key)
        self._taken[name] = self._clock()
        self._models.forget()

    async def unload(self, name: str, key: str | None) -> None:
        """Let go of what `load` took, once the calls in flight have ended. What was pulled stays."""
        if name not in self._taken:
            return
        try:
            await self._touch(name, replace(self._kept, keep_alive=AT_ONCE), key)
        except NotServing:
            log.info("%s was deleted at %s before it was unloaded", name, self._transport.where)
        del self._taken[name]
        self._models.forget()

    async def _load_or_pull(self, name: str, key: str | None) -> None:
        try:
            await self._touch(name, self._kept, key)
        except NotServing:
            where = self._transport.where
            if not self._pulls:
                raise NotServing(
                    f"{where} has not pulled {name}: pull it there (ollama pull {name}), or set pull: true"
                ) from None
            log.info("%s pulls %s", where, name)
            await self._pull(name, key)
            log.info("%s has pulled %s", where, name)
            await self._touch(name, self._kept, key)

    async def _touch(self, name: str, kept: Defaults, key: str | None) -> None:
        """Raises NotServing if the model is not there."""
        body = nothing(name, kept)
        try:
            await self._transport.post("/api/generate", {**body, "stream": False}, key)
        except Unsupported:  # it is for embeddings alone
            await self._transport.post("/api/embed", {**body, "input": []}, key)

    async def _pull(self, name: str, key: str | None) -> None:
        """A pull that is cancelled goes on from where it was when it is asked for again."""
        try:
            async with asyncio.timeout(self._patience) as limit:
                await self._follow(name, key, limit)
        except TimeoutError:
            raise Timeout(f"{self._transport.where} got no further with {name} for {self._patience:g} s") from None

    async def _follow(self, name: str, key: str | None, limit: asyncio.Timeout) -> None:
        """Read what a pull says of its progress; put off `limit` when there is some."""
        where = self._transport.where
        decoder = ObjectDecoder(lambda event: event.get("status") == "success" or "error" in event)
        said: object = None
        async with self._transport.stream("/api/pull", {"model": name, "stream": True}, key) as reader:
            while not decoder.done and (data := await reader.readany()):
                for event in decoder.feed(data):
                    if "error" in event:
                        raise NotServing(f"{name} cannot be pulled: {failure(where, event, key).message}")
                    if event != said:
                        said = event
                        limit.reschedule(asyncio.get_running_loop().time() + self._patience)
        if not decoder.done:
            raise BackendUnreachable(f"{where} ended the pull of {name} early")
