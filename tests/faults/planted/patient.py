"""A registry that waits for its store as long as it takes, and meanwhile says what it knew."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Final

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import Location
from tests.faults.planted.registry import run_over

_LIMIT: Final = 60.0
_READ_SECONDS: Final = 0.5


class Patient(EtcdStore):
    """Holds what is written until it can be done; reads are of what was known."""

    def __init__(self, location: Location) -> None:
        super().__init__(location, limit=_LIMIT)
        self._known = 0
        self._its_id = ""

    async def revision(self) -> int:
        with suppress(TimeoutError):
            async with asyncio.timeout(_READ_SECONDS):
                self._known = await super().revision()
        return self._known

    async def store_id(self) -> str:
        self._its_id = self._its_id or await super().store_id()
        return self._its_id


if __name__ == "__main__":
    sys.exit(run_over(Patient))
