"""Whether a resource can be called now, judged from what the registry knows. The registry tells it, the gateway acts
on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from stackmesh.registry.v1 import resources_pb2 as pb

ServingState = pb.ServingState

_PROBLEM_LIMIT: Final = 300


def hosted(provider: pb.Provider, instance: pb.Instance) -> pb.HostedProvider | None:
    """How an instance hosts a provider, or None."""
    for entry in instance.providers:
        if entry.provider_id == provider.provider_id and entry.api == provider.api:
            return entry
    return None


def serves(provider: pb.Provider, instance: pb.Instance, provider_resource_id: str) -> bool:
    """Whether this instance serves that resource of the provider."""
    entry = hosted(provider, instance)
    return (
        entry is not None and provider_resource_id in provider.served and provider_resource_id not in entry.not_served
    )


def judge(
    model: pb.Model, provider: pb.Provider | None, instances: Iterable[pb.Instance]
) -> tuple[ServingState.ValueType, str]:
    """The model's serving state, and why it is not SERVING (empty when it is).

    `provider` is the one the model names, None if there is no such row; `instances` are the live ones, of whatever
    provider.
    """
    if model.pending_reason:
        return ServingState.SERVING_STATE_PENDING, model.pending_reason
    if provider is None:
        return _not_serving(f"the provider {model.provider_id} is not known")
    hosts = [instance for instance in instances if hosted(provider, instance) is not None]
    if any(serves(provider, instance, model.provider_resource_id) for instance in hosts):
        return ServingState.SERVING_STATE_SERVING, ""
    if not hosts:
        return _not_serving(f"no instance of the provider {provider.provider_id} is running")
    why = f"the provider {provider.provider_id} does not serve {model.provider_resource_id} now"
    problem = _problem(provider, hosts)
    return _not_serving(f"{why}: {problem}" if problem else why)


def _not_serving(reason: str) -> tuple[ServingState.ValueType, str]:
    return ServingState.SERVING_STATE_NOT_SERVING, reason


def _problem(provider: pb.Provider, hosts: Sequence[pb.Instance]) -> str:
    entries = (hosted(provider, instance) for instance in hosts)
    return next((entry.problem[:_PROBLEM_LIMIT] for entry in entries if entry is not None and entry.problem), "")
