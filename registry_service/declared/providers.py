"""The rows of the providers, as the YAML has them."""

from __future__ import annotations

from registry_service import records
from registry_service.instances.draft import Draft
from registry_service.instances.reports import AFTER_THE_YAML
from stackmesh.config import Config
from stackmesh.registry.v1 import resources_pb2 as pb


def place(draft: Draft, config: Config) -> None:
    """Make the providers follow the YAML. What they serve is the instances' to say."""
    declared: set[str] = set()
    for api in {api for api, _ in config.providers.all()}:
        for position, provider in enumerate(config.providers.of(api)):
            row = pb.Provider(
                api=api,
                provider_id=provider.provider_id,
                provider_type=provider.provider_type,
                position=position,
                source=pb.SOURCE_CONFIG,
                auto_register=provider.auto_register,
            )
            before = draft.provider(api, provider.provider_id)
            if before is not None and before.provider_type == row.provider_type:
                row.served.extend(before.served)
            draft.put(row)
            declared.add(records.key_of(row))
    for row in draft.providers():
        if records.key_of(row) not in declared:
            _undeclare(draft, row)


def _undeclare(draft: Draft, row: pb.Provider) -> None:
    """What the YAML does not name is there as long as an instance hosts it."""
    if not any(draft.hosts(row.api, row.provider_id)):
        draft.delete(row)
    elif row.source == pb.SOURCE_CONFIG:
        row.source, row.position, row.auto_register = pb.SOURCE_DISCOVERED, AFTER_THE_YAML, False
        draft.put(row)
