"""Where a call goes: a pure function of the method, the name in the call, and the snapshot.

Everything dear, such as the names that are like an unknown one, is worked out on errors only. What a name leads to is
decided once a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gateway.snapshot import ProviderKey, Resource, Snapshot
from stackmesh import headers, nearest
from stackmesh.errors import NoInstance, NotServing, ResourceNotFound
from stackmesh.names import check_resource_name
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import HOSTED_BY, Api, Method, ResourceType
from stackmesh.serving import ServingState, hosted, judge, serves


class Endpoint(NamedTuple):
    """An instance and where it is reached."""

    instance_id: str
    """Empty for the registry, which is no instance."""
    address: str


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


def served_names(kind: ResourceType.ValueType, snapshot: Snapshot) -> list[str]:
    """The identifiers of a type that can be called now."""
    key = ("served", kind)
    if key not in snapshot.memo:
        serving = _Serving(snapshot)
        known = snapshot.resources(kind).values()
        snapshot.memo[key] = [r.identifier for r in known if serving.serves(HOSTED_BY[kind], r)]
    return snapshot.memo[key]


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
    provider = snapshot.providers.get((HOSTED_BY[kind], resource.provider_id))
    endpoints = tuple(_serving(provider, resource, snapshot)) if provider is not None else ()
    if provider is None or not endpoints:
        raise _not_serving(kind, resource, provider, snapshot)
    return _target(provider, endpoints, snapshot.revision, resource.provider_resource_id, name)


def _serving(provider: pb.Provider, resource: Resource, snapshot: Snapshot) -> Iterator[Endpoint]:
    if resource.pending_reason:
        return
    for instance in snapshot.instances.values():
        if serves(provider, instance, resource.provider_resource_id):
            yield Endpoint(instance.instance_id, instance.address)


def _not_serving(
    kind: ResourceType.ValueType, resource: Resource, provider: pb.Provider | None, snapshot: Snapshot
) -> NotServing | NoInstance:
    state, reason = judge(resource, provider, snapshot.instances.values())
    hosts = provider is not None and any(hosted(provider, i) is not None for i in snapshot.instances.values())
    pending = state == ServingState.SERVING_STATE_PENDING
    error = NotServing if hosts or pending or provider is None else NoInstance
    hint = nearest.hint(resource.identifier, served_names(kind, snapshot))
    return error(
        f"{type_word(kind)} {resource.identifier!r} is registered but not served now: {reason}; served now, {hint}",
        metadata={"resource_type": type_word(kind), "resource": resource.identifier[:100]},
    )


def _of_api(api: Api.ValueType, snapshot: Snapshot) -> Target:
    word = Api.Name(api).removeprefix("API_").lower()
    known = [provider for (its_api, _), provider in snapshot.providers.items() if its_api == api]
    if not known:
        raise NoInstance(f"the mesh has no {word} provider")
    provider = min(known, key=lambda p: (p.source != pb.SOURCE_CONFIG, p.position, p.provider_id))
    endpoints = tuple(
        Endpoint(i.instance_id, i.address) for i in snapshot.instances.values() if hosted(provider, i) is not None
    )
    if not endpoints:
        raise NoInstance(f"no instance of {provider.provider_id}, the default {word} provider, is running")
    return _target(provider, endpoints, snapshot.revision)


def _target(
    provider: pb.Provider,
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
        provider.provider_type,
        provider_resource_id,
        resource,
        revision,
        routed=tuple((key, value) for key, value in pairs if value),
        answered=((headers.REVISION, str(revision)),),
    )


class _Serving:
    """As `stackmesh.serving.serves`, for every resource at once: sets instead of searches."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._served = {key: set(provider.served) for key, provider in snapshot.providers.items()}
        self._exceptions: dict[ProviderKey, list[set[str]]] = {}
        for instance in snapshot.instances.values():
            for entry in instance.providers:
                self._exceptions.setdefault((entry.api, entry.provider_id), []).append(set(entry.not_served))

    def serves(self, api: Api.ValueType, resource: Resource) -> bool:
        key, name = (api, resource.provider_id), resource.provider_resource_id
        if resource.pending_reason or name not in self._served.get(key, ()):
            return False
        return any(name not in exceptions for exceptions in self._exceptions.get(key, ()))
