"""Where a call goes: a pure function of the method, the name in the call, and the snapshot.

What a name leads to is decided once a snapshot. Why one leads nowhere is another question (refusals.py), and a dear
one: a miss is often settled before it has to be answered.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.snapshot import Endpoint, Host, Provider, ProviderKey, Resource, Snapshot
from stackmesh import headers
from stackmesh.names import check_resource_name
from stackmesh.registry.v1 import resources_pb2 as rows
from stackmesh.routes import HOSTED_BY, Api, Method, ResourceType
from stackmesh.serving import lacks

Pairs = tuple[tuple[str, str], ...]
"""Metadata."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls of one name go."""

    endpoints: tuple[Endpoint, ...]
    """At least one. Any of them serves it."""
    provider_id: str = ""
    provider_type: str = ""
    provider_resource_id: str = ""
    """Empty when the call names no resource."""
    resource: str = ""
    """The name in the call."""
    revision: int = 0
    routed: Pairs = ()
    """The headers that tell the service all this."""
    answered: Pairs = ()
    """What is added to the answer: to a stream's initial metadata, to a unary answer's trailers."""


def direct(method: Method, name: str, snapshot: Snapshot) -> Target | None:
    """The target of a call of `method` that names `name` (ignored where a method names no resource); None if nothing
    serves it now, be it because nobody has registered it.

    Raises InvalidField for what can be no name. `method` goes to a resource or to an API.
    """
    kind = method.route.resource_type
    key = (kind, name) if kind else (0, method.api)
    target = snapshot.memo.get(key)
    if target is None:
        target = _of_resource(method, kind, name, snapshot) if kind else _of_api(method.api, snapshot)
        if target is not None:
            snapshot.memo[key] = target
    return target


def whereto(
    kind: ResourceType.ValueType, name: str, snapshot: Snapshot
) -> tuple[Resource | None, tuple[Endpoint, ...]]:
    """What calls of a name go to now, and who serves it; nobody if nothing it stands for, or stood for, is served."""
    if (resource := called(kind, name, snapshot)) is None:
        return None, ()
    return resource, hosting((HOSTED_BY[kind], resource.provider_id), snapshot).serving(resource.provider_resource_id)


def called(kind: ResourceType.ValueType, name: str, snapshot: Snapshot) -> Resource | None:
    """What calls of a name go to now; None if nothing it stands for, or stood for, is served."""
    for resource in snapshot.targets(kind, name):
        key, theirs = (HOSTED_BY[kind], resource.provider_id), resource.provider_resource_id
        provider = snapshot.providers.get(key)
        if provider is None or resource.pending_reason or theirs not in provider.served:
            continue
        if hosting(key, snapshot).serves(theirs):
            return resource
    return None


@dataclass(frozen=True, slots=True)
class Hosting:
    """The live instances of a provider. Nearly all serve all that it serves, and the others are looked through."""

    endpoints: tuple[Endpoint, ...]
    """Of all of them."""
    partial: tuple[Host, ...]
    """Those that lack something."""

    def serves(self, provider_resource_id: str) -> bool:
        """Whether any of them serves what the provider serves."""
        return len(self.partial) < len(self.endpoints) or any(
            not lacks(host, provider_resource_id) for host in self.partial
        )

    def serving(self, provider_resource_id: str) -> tuple[Endpoint, ...]:
        """Those that serve it. If all do it is always the same tuple: there may be 10,000 names of 1,000 instances."""
        lacking = {host.endpoint for host in self.partial if lacks(host, provider_resource_id)}
        if not lacking:
            return self.endpoints
        return tuple([endpoint for endpoint in self.endpoints if endpoint not in lacking])


def hosting(key: ProviderKey, snapshot: Snapshot) -> Hosting:
    """Worked out once a snapshot."""
    found = snapshot.memo.get(("hosting", key))
    if found is None:
        hosts = snapshot.hosts(key)
        endpoints = tuple([host.endpoint for host in hosts])
        found = Hosting(endpoints, tuple([host for host in hosts if host.not_served or host.serves_nothing]))
        snapshot.memo["hosting", key] = found
    return found


def default_provider(api: Api.ValueType, snapshot: Snapshot) -> Provider | None:
    """The first of the YAML; None if an API has no provider."""
    known = [provider for key, provider in snapshot.providers.items() if key[0] == api]
    return min(known, key=lambda provider: _rank(provider.row), default=None)


def type_word(kind: ResourceType.ValueType) -> str:
    """`memory_bank` for RESOURCE_TYPE_MEMORY_BANK: what users call it."""
    return ResourceType.Name(kind).removeprefix("RESOURCE_TYPE_").lower()


def _of_resource(method: Method, kind: ResourceType.ValueType, name: str, snapshot: Snapshot) -> Target | None:
    check_resource_name(method.route.field, name)
    if name not in snapshot.resources(kind):
        return None  # what it stood for before it was gone does not matter
    resource, endpoints = whereto(kind, name, snapshot)
    if resource is None:
        return None
    provider = snapshot.providers[HOSTED_BY[kind], resource.provider_id]
    return _target(provider, endpoints, snapshot.revision, resource.provider_resource_id, name)


def _of_api(api: Api.ValueType, snapshot: Snapshot) -> Target | None:
    provider = default_provider(api, snapshot)
    if provider is None:
        return None
    endpoints = hosting((api, provider.provider_id), snapshot).endpoints
    return _target(provider, endpoints, snapshot.revision) if endpoints else None


def _rank(row: rows.Provider) -> tuple[bool, int, str]:
    return row.source != rows.SOURCE_CONFIG, row.position, row.provider_id


def _target(
    provider: Provider,
    endpoints: tuple[Endpoint, ...],
    revision: int,
    provider_resource_id: str = "",
    resource: str = "",
) -> Target:
    pairs = (
        (headers.PROVIDER_ID, provider.provider_id),
        (headers.PROVIDER_RESOURCE_ID, provider_resource_id),
        (headers.RESOURCE, resource),
    )
    return Target(
        endpoints,
        provider.provider_id,
        provider.row.provider_type,
        provider_resource_id,
        resource,
        revision,
        routed=tuple((key, value) for key, value in pairs if value),
        answered=((headers.REVISION, str(revision)),),
    )
