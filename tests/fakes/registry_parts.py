"""Parts of the registry on a store, without its server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from registry_service.instances.drafts import Drafts
from registry_service.mirror.mirror import Mirror
from registry_service.store import Store
from stackmesh.tasks import background


@asynccontextmanager
async def drafting(store: Store) -> AsyncGenerator[tuple[Mirror, Drafts]]:
    """One replica's mirror and drafts, running."""
    mirror = Mirror(store)
    drafts = Drafts(store, mirror)
    async with background(mirror.run(), "mirror"), background(drafts.run(), "drafts"):
        yield mirror, drafts
