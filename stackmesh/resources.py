"""The types of resources, as data: what everything that treats them alike goes by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.registry.v1.watch_service_pb2 import EntryKind
from stackmesh.routes import HOSTED_BY, Api, ResourceType

Resource = pb.Model | pb.Shield | pb.MemoryBank | pb.Agent


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of resource."""

    resource_type: ResourceType.ValueType
    entry_kind: EntryKind.ValueType
    word: str
    """`memory_bank`: the prefix of its keys, its field in an Entry, and with `_id` its name's field in requests."""
    plural: str
    """`memory_banks`: its section of the YAML, its field in a list."""
    message: type[Resource]
    """Its row."""
    payload: str
    """`metadata` or `params`: the field with what is its own."""

    @property
    def api(self) -> Api.ValueType:
        """Whose providers host it."""
        return HOSTED_BY[self.resource_type]

    @property
    def words(self) -> str:
        """`memory bank`: what people call it."""
        return self.word.replace("_", " ")


_T, _E = ResourceType, EntryKind
KINDS: Final[Mapping[ResourceType.ValueType, Kind]] = {
    kind.resource_type: kind
    for kind in (
        Kind(_T.RESOURCE_TYPE_MODEL, _E.ENTRY_KIND_MODEL, "model", "models", pb.Model, "metadata"),
        Kind(_T.RESOURCE_TYPE_SHIELD, _E.ENTRY_KIND_SHIELD, "shield", "shields", pb.Shield, "params"),
        Kind(
            _T.RESOURCE_TYPE_MEMORY_BANK,
            _E.ENTRY_KIND_MEMORY_BANK,
            "memory_bank",
            "memory_banks",
            pb.MemoryBank,
            "params",
        ),
        Kind(_T.RESOURCE_TYPE_AGENT, _E.ENTRY_KIND_AGENT, "agent", "agents", pb.Agent, "metadata"),
    )
}
"""By resource type."""


def kind_of(resource: Resource) -> Kind:
    """The kind of a row."""
    return next(kind for kind in KINDS.values() if isinstance(resource, kind.message))


def earlier(handover: pb.Handover) -> Resource:
    """What a resource stood for before its last update."""
    return getattr(handover, handover.WhichOneof("earlier") or KINDS[ResourceType.RESOURCE_TYPE_MODEL].word)


def handover_of(resource: Resource) -> pb.Handover:
    """From what a resource stands for now."""
    return pb.Handover(**{kind_of(resource).word: resource})  # pyright: ignore[reportArgumentType] -- one of its fields


def api_word(api: Api.ValueType) -> str:
    """`inference` for API_INFERENCE."""
    return Api.Name(api).removeprefix("API_").lower()
