"""The one resource that another one needs: a vector bank's embedding model."""

from __future__ import annotations

from collections.abc import Mapping

from registry_service import records
from registry_service.mirror.known import Known
from stackmesh.errors import InvalidField, NotServing
from stackmesh.nearest import hint
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import KINDS, Resource
from stackmesh.routes import ResourceType

_MODEL = KINDS[ResourceType.RESOURCE_TYPE_MODEL]


def needed(known: Known, row: Resource) -> Mapping[str, int]:
    """The keys on which a row relies, with the revisions at which they were found to be as it needs them.

    Expected in the commit that writes the row, they make the two one decision. Raises InvalidField when the model is
    not registered, NotServing while it is pending.
    """
    if not isinstance(row, pb.MemoryBank) or not row.params.HasField("vector"):
        return {}
    name = row.params.vector.embedding_model
    model = known.resource(_MODEL, name)
    if model is None:
        models = known.resources(_MODEL)
        raise InvalidField(
            "params.vector.embedding_model", f"{name} is not a registered model; {hint(name, models.keys())}"
        )
    if model.pending_reason:
        raise NotServing(f"the embedding model {name} is declared in the YAML and pending: {model.pending_reason}")
    return {records.resource_key(_MODEL, name): model.revision}
