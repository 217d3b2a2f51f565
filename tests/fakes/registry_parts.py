"""Parts of the registry on a store, without its server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from registry_service import records
from registry_service.declared.discovered import Discovered
from registry_service.instances.drafts import Drafts
from registry_service.mirror.known import Known
from registry_service.mirror.mirror import Mirror
from registry_service.store import COMMIT_LIMIT, Delete, Store
from stackmesh.resources import KINDS
from stackmesh.routes import ResourceType
from stackmesh.tasks import background


@asynccontextmanager
async def drafting(store: Store) -> AsyncGenerator[tuple[Mirror, Drafts]]:
    """One replica's mirror and drafts, running."""
    mirror = Mirror(store)
    drafts = Drafts(store, mirror)
    async with background(mirror.run(), "mirror"), background(drafts.run(), "drafts"):
        yield mirror, drafts


class Rewriting(Discovered):
    """A planted bug: unregisters every model and registers it again, as our ancestors did."""

    async def follow(self, known: Known) -> None:
        kind = KINDS[ResourceType.RESOURCE_TYPE_MODEL]
        keys = [records.resource_key(kind, name) for name in known.resources(kind)]
        for start in range(0, len(keys), COMMIT_LIMIT):
            await self._store.commit([Delete(key) for key in keys[start : start + COMMIT_LIMIT]])
        await super().follow(await self._mirror.current())
