"""Being in the middle of a call, as its provider is."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from stackmesh import calls


@contextmanager
def calling(provider_data: str | None) -> Generator[None]:
    """Whoever calls has sent this `x-stackmesh-provider-data`."""
    token = calls.enter(calls.Call("p", "its-name", "m", "r1", "", provider_data))
    try:
        yield
    finally:
        calls.leave(token)
