"""What the contract suite asks of the fake of a vendor's server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from tests.fakes.http_server import Received, Reply
from tests.fakes.toy_model import Asked, ToyModel


class Backend(Protocol):
    """A fake whose answers are a ToyModel's, in the vendor's words. `tests/fakes/http_server.HttpServer` is most of it.

    Its error bodies are the vendor's documented ones, from data files that cite the page.
    """

    model: ToyModel
    asked: Sequence[Asked]
    """What the model was asked, in order."""
    requests: Sequence[Received]
    """All requests, as they came."""
    reply: Reply | Callable[[Received], Reply]
    """What it answers to requests that ask the model; `speak` is what it answers unless a test says otherwise."""

    stream_type: str
    """The content type of its streams."""

    @property
    def working(self) -> int:
        """How many requests have been neither answered in full nor left by their clients."""
        ...

    def speak(self, request: Received) -> Reply: ...

    def refusal(self, status: int, retry_after: str | None = None) -> Reply:
        """The documented error of this status (400, 401, 403, 404, 429, 500, 503); 404 is about the model."""
        ...

    def said(self, text: str) -> bytes:
        """One piece of a chat stream that says this."""
        ...

    def broken(self) -> bytes:
        """A piece of a chat stream that is not in the form of the vendor's protocol."""
        ...
