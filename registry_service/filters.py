"""Which entries a list or a watch wants: EntryFilter, checked and ready for use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from registry_service import records
from registry_service.store import Row
from stackmesh import choices, names
from stackmesh.registry.v1 import watch_service_pb2 as pb

_OF_NO_PROVIDER: Final = frozenset({records.PROVIDERS, records.INSTANCES})


@dataclass(frozen=True, slots=True)
class Wanted:
    """Without prefixes: of every kind; without provider_ids: of every provider."""

    prefixes: frozenset[str] = frozenset()
    provider_ids: frozenset[str] = frozenset()

    @property
    def digest(self) -> str:
        """Tells one filter from another, in a few characters."""
        parts = [*sorted(self.prefixes), "", *sorted(self.provider_ids)]
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()

    def kind(self, prefix: str) -> bool:
        """Whether entries under a prefix are wanted at all."""
        return not self.prefixes or prefix in self.prefixes

    def of(self, prefix: str, provider_id: str) -> bool:
        """Whether an entry under a prefix is wanted that, if it is of a provider, is of this one."""
        return self.kind(prefix) and (
            not self.provider_ids or prefix in _OF_NO_PROVIDER or provider_id in self.provider_ids
        )

    def row(self, row: Row) -> bool:
        """Whether what a row holds is wanted."""
        prefix, _ = records.split(row.key)
        if not self.kind(prefix) or prefix not in records.PREFIXES.values():
            return False
        if not self.provider_ids or prefix in _OF_NO_PROVIDER:
            return True
        try:
            return records.provider_of(records.record(row)) in self.provider_ids
        except DecodeError:
            return False


EVERYTHING: Final = Wanted()


def wanted(asked: pb.EntryFilter) -> Wanted:
    """Raises InvalidField."""
    for kind in asked.kinds:
        choices.check("filter.kinds", kind, pb.EntryKind)
    for provider_id in asked.provider_ids:
        names.check_id("filter.provider_ids", provider_id)
    if not asked.kinds and not asked.provider_ids:
        return EVERYTHING
    return Wanted(frozenset(records.PREFIXES[kind] for kind in asked.kinds), frozenset(asked.provider_ids))
