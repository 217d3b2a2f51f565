"""What a registry is made of, over a store, without its server."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

from registry_service.instances import reports
from registry_service.instances.drafts import Drafts
from registry_service.mirror.mirror import Mirror
from registry_service.registering.registrations import Registrations
from registry_service.registering.resolve import Resolver
from registry_service.store import Store
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.tasks import background


@dataclass
class Parts:
    store: Store
    mirror: Mirror
    drafts: Drafts
    resolver: Resolver

    @property
    def registrations(self):
        return Registrations(self.store, self.mirror, self.resolver)

    async def known(self):
        return await self.mirror.current()

    async def say(self, instance):
        """Announce a fake instance, without a stream."""
        record = pb.Instance(instance_id=instance.instance_id, address=instance.address)
        said = [provider.report(provider_id) for provider_id, provider in instance.providers.items()]
        await self.drafts.update(lambda draft: reports.write(draft, copied(record), said))


@asynccontextmanager
async def parts_of(store, **options):
    mirror = Mirror(store)
    drafts = Drafts(store, mirror)
    async with background(mirror.run(), "mirror"), background(drafts.run(), "drafts"):
        yield Parts(store, mirror, drafts, Resolver(**options))


def copied(record):
    copy = type(record)()
    copy.CopyFrom(record)
    return copy
