"""What a mesh has, and what it would make of an entry: as much as can be known without asking its providers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Self

from stackmesh import payloads
from stackmesh.cli.backup import Entry
from stackmesh.cli.export import WORDS
from stackmesh.client import Client
from stackmesh.errors import InvalidField
from stackmesh.registry.v1.resources_pb2 import SOURCE_CONFIG, SOURCE_DISCOVERED, MemoryBankParams
from stackmesh.resources import Resource, api_word


@dataclass(frozen=True, slots=True)
class Mesh:
    """As it is at one moment."""

    rows: Mapping[str, Resource] = field(default_factory=dict[str, Resource])
    """By key: `memory_bank/docs`."""
    providers: Collection[str] = ()
    """`memory/kv`."""
    hosted: Collection[str] = ()
    """Those of them that an instance hosts."""

    @classmethod
    async def seen(cls, client: Client) -> Self:
        """Raises MeshError."""
        entries = (await client.entries(kinds=[*WORDS, "provider", "instance"])).entries
        hosts = [host for entry in entries for host in entry.instance.providers]
        return cls(
            {e.key: getattr(e, e.key.partition("/")[0]) for e in entries if e.key.partition("/")[0] in WORDS},
            {e.key.removeprefix("provider/") for e in entries if e.HasField("provider")},
            {f"{api_word(host.api)}/{host.provider_id}" for host in hosts},
        )

    def row(self, entry: Entry) -> Resource | None:
        """What is there under its name. What was discovered is not: it yields to a user's."""
        row = self.rows.get(f"{entry.kind.word}/{entry.name}")
        return None if row is None or row.source == SOURCE_DISCOVERED else row

    def declares(self, entry: Entry) -> bool:
        """Whether the mesh's YAML has the name, and alone can change it."""
        row = self.row(entry)
        return row is not None and row.source == SOURCE_CONFIG

    def objection(self, entry: Entry, models: Collection[str]) -> str | None:
        """Why it would refuse to write the entry, when `models` are written before it."""
        try:
            payloads.check(entry.kind, entry.row())
        except InvalidField as error:
            return error.message
        return self._unhosted(entry) or self._no_model(entry, models)

    def _unhosted(self, entry: Entry) -> str | None:
        api = api_word(entry.kind.api)
        if entry.provider_id is None:
            there = any(hosted.startswith(f"{api}/") for hosted in self.hosted)
            return None if there else f"no instance of any {api} provider is running"
        provider = f"{api}/{entry.provider_id}"
        if provider not in self.providers:
            return f"no {api} provider is called {entry.provider_id}"
        return None if provider in self.hosted else f"no instance of the provider {entry.provider_id} is running"

    def _no_model(self, entry: Entry, models: Collection[str]) -> str | None:
        if not isinstance(entry.payload, MemoryBankParams) or not entry.payload.HasField("vector"):
            return None
        name = entry.payload.vector.embedding_model
        if name in models or f"model/{name}" in self.rows:
            return None
        return f"the embedding model {name} is neither registered nor in the file"
