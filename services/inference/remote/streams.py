"""Streamed answers, from bytes to chunks of ours, whichever dialect a decoder reads and a fold understands.

What was read together is sent together: all the text in one read is one chunk. At low load a read is one event, so
every token is sent as it comes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

from services.inference.remote.errors import sensible
from services.inference.remote.transport import Reader, Transport
from stackmesh.errors import MeshError

Json = dict[str, Any]
Chunk = TypeVar("Chunk")
Chunk_co = TypeVar("Chunk_co", covariant=True)


class Decoder(Protocol):
    """Makes events of bytes."""

    @property
    def done(self) -> bool:
        """Whether the server has said that nothing more comes, in a format in which it can."""
        ...

    def feed(self, data: bytes) -> list[Json]:
        """The events that `data` completes, in order. Raises Internal for what is none."""
        ...


class Fold(Protocol, Generic[Chunk_co]):
    """Makes chunks of one stream's events."""

    @property
    def failure(self) -> Json | None:
        """The error event that ended the stream, if one did."""
        ...

    def start(self) -> Iterable[Chunk_co]:
        """What precedes the first chunk."""
        ...

    def feed(self, events: Sequence[Json]) -> Sequence[Chunk_co]:
        """What the events of one read have brought."""
        ...

    def end(self) -> Iterable[Chunk_co]:
        """What ends the stream. Raises BackendUnreachable if it ended early."""
        ...


@dataclass(frozen=True, slots=True)
class Reading(Generic[Chunk]):
    """How one stream is to be read."""

    decoder: Decoder
    fold: Fold[Chunk]
    failure: Callable[[Json, str | None], MeshError]
    """What an error event means. It is given the credential, too, which is not to be shown."""


async def stream(
    transport: Transport, path: str, body: Mapping[str, Any], key: str | None, reading: Reading[Chunk]
) -> AsyncGenerator[Chunk]:
    """As `opened`, of a transport's answer."""
    return await opened(transport.stream(path, body, key), transport.where, key, reading)


async def opened(
    answer: AbstractAsyncContextManager[Reader], where: str, key: str | None, reading: Reading[Chunk]
) -> AsyncGenerator[Chunk]:
    """The stream once its first event is here, so that what is wrong before it is raised from here.

    The generator has then begun: closing it closes the connection even if nobody ever reads from it.
    """
    chunks = _chunks(answer, where, key, reading)
    await anext(chunks)
    return cast("AsyncGenerator[Chunk]", chunks)


async def _chunks(
    answer: AbstractAsyncContextManager[Reader], where: str, key: str | None, reading: Reading[Chunk]
) -> AsyncGenerator[Chunk | None]:
    """None when the first event is here, then the chunks."""
    decoder, fold = reading.decoder, reading.fold
    begun = False
    async with answer as reader:
        while not decoder.done and (data := await reader.readany()):
            events = decoder.feed(data)
            if not events:
                continue
            with sensible(where):
                chunks = fold.feed(events)
            if fold.failure is not None and not chunks:
                raise reading.failure(fold.failure, key)
            if not begun:
                begun = True
                yield None
                for chunk in fold.start():
                    yield chunk
            for chunk in chunks:
                yield chunk
            if fold.failure is not None:
                raise reading.failure(fold.failure, key)
        with sensible(where):
            chunks = list(fold.end())
        for chunk in chunks:
            yield chunk
