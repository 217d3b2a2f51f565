"""The planted bug of an adapter on HTTP that goes on when its call has been left."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.inference.remote.http import Http
from tests.contracts.inference_provider.stopping import check_closed_decoding, stopped
from tests.contracts.inference_provider.subject import Subject


class Held(Http):
    """Never closes the answer to a stream."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: list[Any] = []

    @asynccontextmanager
    async def stream(self, path: str, body: Any, key: str | None) -> AsyncGenerator[Any]:
        opening = super().stream(path, body, key)
        self.held.append(opening)
        yield await opening.__aenter__()


async def check_held_is_seen(subject: Subject, transport: Any) -> None:
    """The check of stopping fails on a subject whose transport is a Held."""
    with pytest.raises(pytest.fail.Exception, match="has stopped"):
        await check_closed_decoding(subject, attempts=1)
    for opening in transport.held:
        await opening.__aexit__(None, None, None)
    await stopped(subject)
