"""Whether a resource can be called now, judged from what the registry knows. The registry tells it, the gateway acts
on it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from typing import Final, Protocol

from stackmesh.registry.v1 import resources_pb2 as pb

ServingState = pb.ServingState

_PROBLEM_LIMIT: Final = 300


class Routed(Protocol):
    """What matters here of a resource. Every type of resource is one."""

    @property
    def provider_id(self) -> str: ...
    @property
    def provider_resource_id(self) -> str: ...
    @property
    def pending_reason(self) -> str: ...


class Offer(Protocol):
    """What matters here of a provider. pb.Provider is one; with many resources to judge, one with a set is better."""

    @property
    def provider_id(self) -> str: ...
    @property
    def served(self) -> Container[str]: ...


class Failure(Protocol):
    """Why one resource cannot be served. pb.Failure is one."""

    @property
    def provider_resource_id(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Host(Protocol):
    """How one instance hosts a provider. pb.HostedProvider is one."""

    @property
    def serves_nothing(self) -> bool: ...
    @property
    def not_served(self) -> Container[str]: ...
    @property
    def problem(self) -> str: ...
    @property
    def failures(self) -> Iterable[Failure]: ...


def hosted(provider: pb.Provider | pb.HostedProvider, instance: pb.Instance) -> pb.HostedProvider | None:
    """How an instance hosts a provider, which another one's entry names as well; or None."""
    for entry in instance.providers:
        if entry.provider_id == provider.provider_id and entry.api == provider.api:
            return entry
    return None


def lacks(host: Host, provider_resource_id: str) -> bool:
    """Whether the instance does not serve what its provider lists."""
    return host.serves_nothing or provider_resource_id in host.not_served


def serves(provider: pb.Provider, instance: pb.Instance, provider_resource_id: str) -> bool:
    """Whether this instance serves that resource of the provider."""
    entry = hosted(provider, instance)
    return entry is not None and provider_resource_id in provider.served and not lacks(entry, provider_resource_id)


def judge(
    resource: Routed, provider: pb.Provider | None, instances: Iterable[pb.Instance]
) -> tuple[ServingState.ValueType, str]:
    """As `verdict`, of the live instances of whatever provider."""
    if resource.pending_reason or provider is None:
        return verdict(resource, provider, ())
    entries = (hosted(provider, instance) for instance in instances)
    return verdict(resource, provider, [entry for entry in entries if entry is not None])


def verdict(resource: Routed, provider: Offer | None, hosts: Collection[Host]) -> tuple[ServingState.ValueType, str]:
    """The resource's serving state, and why it is not SERVING (empty when it is).

    `provider` is the one the resource names, None if there is no such row; `hosts` are the live ones that host it.
    """
    if resource.pending_reason:
        return ServingState.SERVING_STATE_PENDING, resource.pending_reason
    if provider is None:
        return _not_serving(f"no instance of the provider {resource.provider_id} is running, nor does the YAML name it")
    name = resource.provider_resource_id
    if name in provider.served and any(not lacks(host, name) for host in hosts):
        return ServingState.SERVING_STATE_SERVING, ""
    if not hosts:
        return _not_serving(f"no instance of the provider {provider.provider_id} is running")
    why = f"the provider {provider.provider_id} does not serve {name} now"
    problem = _problem(name, hosts)
    return _not_serving(f"{why}: {problem}" if problem else why)


def still(earlier: Routed, reason: str) -> tuple[ServingState.ValueType, str]:
    """The state of a resource that is not served, for a reason, while what it stood for before its last update is."""
    where = f"{earlier.provider_resource_id} at {earlier.provider_id}"
    return ServingState.SERVING_STATE_SERVING, f"calls still go to {where}, as before the update: {reason}"


def _not_serving(reason: str) -> tuple[ServingState.ValueType, str]:
    return ServingState.SERVING_STATE_NOT_SERVING, reason


def _problem(name: str, hosts: Collection[Host]) -> str:
    """Why an instance could not load it; else what is wrong with a backend as a whole."""
    failures = (f.reason for host in hosts for f in host.failures if f.provider_resource_id == name and f.reason)
    problems = (host.problem for host in hosts if host.problem)
    return next(failures, next(problems, ""))[:_PROBLEM_LIMIT]
