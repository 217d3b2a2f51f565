"""What a call asks for, as the row it would be: checked, whatever the type of resource.

A row that is asked for has what the caller has set and nothing else: its `provider_resource_id` is a name that the
provider may know it by, and no `provider_id` means that it is to be found out.
"""

from __future__ import annotations

from typing import Any

from stackmesh import names, payloads, wishes
from stackmesh.errors import InvalidField
from stackmesh.provider.v1.provider_service_pb2 import ResolveRequest
from stackmesh.resources import Kind, Resource


def registration(kind: Kind, request: Any) -> Resource:
    """The row a Register request asks for. Raises InvalidField."""
    row = kind.message(
        identifier=names.check_identifier(f"{kind.word}_id", getattr(request, f"{kind.word}_id")),
        provider_id=request.provider_id,
        provider_resource_id=getattr(request, f"provider_{kind.word}_id"),
    )
    _take_payload(kind, request, row)
    if row.provider_resource_id:
        names.check_resource_name(f"provider_{kind.word}_id", row.provider_resource_id)
    if row.provider_id:
        names.check_id("provider_id", row.provider_id)
    payloads.check(kind, row)
    return row


def change(kind: Kind, request: Any) -> tuple[Resource, int]:
    """What an Update request changes, and the revision it expects. Raises InvalidField."""
    row = kind.message(identifier=name(kind, request))
    if (expected := revision(request)) == 0:
        raise InvalidField("expected_revision", "is required: the revision that Get returned")
    if request.HasField("provider_id"):
        row.provider_id = names.check_id("provider_id", request.provider_id)
    if request.HasField(own := f"provider_{kind.word}_id"):
        row.provider_resource_id = names.check_resource_name(own, getattr(request, own))
    if request.HasField(kind.payload):
        _take_payload(kind, request, row)
        payloads.check(kind, row)
    return row, expected


def name(kind: Kind, request: Any) -> str:
    """The resource a request names. Raises InvalidField."""
    return names.check_resource_name(f"{kind.word}_id", getattr(request, f"{kind.word}_id"))


def revision(request: Any) -> int:
    """The revision a request expects, 0 for any. Raises InvalidField."""
    if request.expected_revision < 0:
        raise InvalidField("expected_revision", "is negative")
    return request.expected_revision


def asked_name(row: Resource) -> str:
    """What a provider is asked for, by a row that is asked for or that is there."""
    return row.provider_alias or row.provider_resource_id or row.identifier


def named(row: Resource, provider_id: str, provider_resource_id: str) -> None:
    """Put the provider's answer into a row that was asked for."""
    alias = asked_name(row)
    row.provider_id, row.provider_resource_id = provider_id, provider_resource_id
    row.provider_alias = "" if alias == provider_resource_id else alias


def question(row: Resource) -> ResolveRequest:
    """What a provider is asked about a row."""
    asked = wishes.wanted(row)
    asked.provider_resource_id = asked_name(row)
    return asked


def _take_payload(kind: Kind, request: Any, row: Resource) -> None:
    if request.HasField(kind.payload):
        taken = getattr(row, kind.payload)
        taken.CopyFrom(getattr(request, kind.payload))
        taken.SetInParent()
