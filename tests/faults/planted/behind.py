"""A registry that says it is where it was at its start: who asks it how far to wait does not wait at all."""

from __future__ import annotations

import sys

from registry_service.etcd.store import EtcdStore
from registry_service.etcd.url import Location
from tests.faults.planted.registry import run_over


class Behind(EtcdStore):
    """Answers with the first revision it was told, and does not ask again."""

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self._first: int | None = None
        self._its_id = ""

    async def revision(self) -> int:
        if self._first is None:
            self._first = await super().revision()
        return self._first

    async def store_id(self) -> str:
        self._its_id = self._its_id or await super().store_id()
        return self._its_id


if __name__ == "__main__":
    sys.exit(run_over(Behind))
