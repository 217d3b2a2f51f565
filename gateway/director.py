"""Where a call goes: a pure function of the method, the name in the call, and the snapshot.

Everything dear, such as the names that are like an unknown one, is worked out on errors only. What a name leads to is
decided once a snapshot.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gateway.snapshot import Endpoint, Provider, Resource, Snapshot
from stackmesh import headers, nearest
from stackmesh.errors import NoInstance, NotServing, ResourceNotFound
from stackmesh.names import check_resource_name
from stackmesh.registry.v1 import resources_pb2 as rows
from stackmesh.resources import api_word
from stackmesh.routes import HOSTED_BY, Api, Method, ResourceType
from stackmesh.serving import ServingState, verdict

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
    """What is added to the initial metadata of the answer."""


def direct(method: Method, name: str, snapshot: Snapshot) -> Target:
    """The target of a call of `method` that names `name` (ignored where a method names no resource).

    Raises InvalidField for what can be no name, ResourceNotFound for a name nobody registered, NotServing or NoInstance
    when nothing serves it now. `method` goes to a resource or to an API.
    """
    kind = method.route.resource_type
    key = (kind, name) if kind else (0, method.api)
    target = snapshot.memo.get(key)
    if target is None:
        target = _of_resource(method, kind, name, snapshot) if kind else _of_api(method.api, snapshot)
        snapshot.memo[key] = target
    return target


def served_names(kind: ResourceType.ValueType, snapshot: Snapshot) -> Collection[str]:
    """The identifiers of a type that can be called now."""
    key = ("served", kind)
    if key not in snapshot.memo:
        snapshot.memo[key] = [name for name in snapshot.resources(kind) if whereto(kind, name, snapshot)[1]]
    return snapshot.memo[key]


def whereto(
    kind: ResourceType.ValueType, name: str, snapshot: Snapshot
) -> tuple[Resource | None, tuple[Endpoint, ...]]:
    """What calls of a name go to now, and who serves it; nobody if nothing it stands for, or stood for, is served."""
    for resource in snapshot.targets(kind, name):
        if endpoints := _served_by(kind, resource, snapshot):
            return resource, endpoints
    return None, ()


def _served_by(kind: ResourceType.ValueType, resource: Resource, snapshot: Snapshot) -> tuple[Endpoint, ...]:
    key, name = (HOSTED_BY[kind], resource.provider_id), resource.provider_resource_id
    provider = snapshot.providers.get(key)
    if provider is None or resource.pending_reason or name not in provider.served:
        return ()
    return tuple([host.endpoint for host in snapshot.hosts(key) if name not in host.not_served])


def type_word(kind: ResourceType.ValueType) -> str:
    """`memory_bank` for RESOURCE_TYPE_MEMORY_BANK: what users call it."""
    return ResourceType.Name(kind).removeprefix("RESOURCE_TYPE_").lower()


def _of_resource(method: Method, kind: ResourceType.ValueType, name: str, snapshot: Snapshot) -> Target:
    check_resource_name(method.route.field, name)
    resource = snapshot.resources(kind).get(name)
    if resource is None:
        hint = nearest.hint(name, served_names(kind, snapshot))
        word = type_word(kind)
        named = {"resource_type": word, "resource": name[:100]}
        raise ResourceNotFound(f"no {word} is called {name!r}; served now, {hint}", metadata=named)
    called, endpoints = whereto(kind, name, snapshot)
    if called is None:
        raise _not_serving(kind, name, resource, snapshot)
    provider = snapshot.providers[HOSTED_BY[kind], called.provider_id]
    return _target(provider, endpoints, snapshot.revision, called.provider_resource_id, name)


def _not_serving(
    kind: ResourceType.ValueType, name: str, resource: Resource, snapshot: Snapshot
) -> NotServing | NoInstance:
    key = (HOSTED_BY[kind], resource.provider_id)
    provider, hosts = snapshot.providers.get(key), snapshot.hosts(key)
    state, reason = verdict(resource, provider, hosts)
    pending = state == ServingState.SERVING_STATE_PENDING
    error = NotServing if hosts or pending or provider is None else NoInstance
    hint = nearest.hint(name, served_names(kind, snapshot))
    return error(
        f"{type_word(kind)} {name!r} is registered but not served now: {reason}; served now, {hint}",
        metadata={"resource_type": type_word(kind), "resource": name[:100]},
    )


def _of_api(api: Api.ValueType, snapshot: Snapshot) -> Target:
    word = api_word(api)
    known = [(key, provider) for key, provider in snapshot.providers.items() if key[0] == api]
    if not known:
        raise NoInstance(f"the mesh has no {word} provider")
    key, provider = min(known, key=lambda known: _rank(known[1].row))
    endpoints = tuple([host.endpoint for host in snapshot.hosts(key)])
    if not endpoints:
        raise NoInstance(f"no instance of {provider.provider_id}, the default {word} provider, is running")
    return _target(provider, endpoints, snapshot.revision)


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
