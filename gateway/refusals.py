"""Why a call leads nowhere: what its caller is told once the miss has been settled.

The names that are like an unknown one are dear to find, and one who asks for what is not there asks again: what was
answered from a snapshot is kept with it, as far as there is room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from gateway.director import called, default_provider, type_word
from gateway.snapshot import Resource, Snapshot
from stackmesh.errors import FailedPrecondition, NoInstance, NotFound, NotServing, ResourceNotFound
from stackmesh.nearest import Names
from stackmesh.resources import api_word
from stackmesh.routes import HOSTED_BY, Api, Method, ResourceType
from stackmesh.serving import ServingState, verdict

_KEPT: Final = 256
"""Refusals a snapshot remembers. When there are more it begins anew."""


class _Refusal(NamedTuple):
    error: type[NotFound | FailedPrecondition]
    message: str
    metadata: Mapping[str, str]


def refusal(method: Method, name: str, snapshot: Snapshot) -> NotFound | FailedPrecondition:
    """Why `direct` gives no target: ResourceNotFound for a name nobody registered, NotServing or NoInstance when
    nothing serves it now.
    """
    kind = method.route.resource_type
    key = (kind, name) if kind else (0, method.api)
    kept: dict[object, _Refusal] = snapshot.memo.setdefault("refusals", {})
    if key not in kept:
        if len(kept) >= _KEPT:
            kept.clear()
        kept[key] = _of_resource(kind, name, snapshot) if kind else _of_api(method.api, snapshot)
    error, message, metadata = kept[key]
    return error(message, metadata=metadata)


def served_names(kind: ResourceType.ValueType, snapshot: Snapshot) -> Names:
    """The identifiers of a type that can be called now."""
    key = ("served", kind)
    if key not in snapshot.memo:
        names = [name for name in snapshot.resources(kind) if called(kind, name, snapshot) is not None]
        snapshot.memo[key] = Names(names)
    return snapshot.memo[key]


def _of_resource(kind: ResourceType.ValueType, name: str, snapshot: Snapshot) -> _Refusal:
    word, resource = type_word(kind), snapshot.resources(kind).get(name)
    error, why = ResourceNotFound, f"no {word} is called {name!r}"
    if resource is not None:
        error, reason = _not_serving(kind, resource, snapshot)
        why = f"{word} {name!r} is registered but not served now: {reason}"
    hint = served_names(kind, snapshot).hint(name)
    return _Refusal(error, f"{why}; served now, {hint}", {"resource_type": word, "resource": name[:100]})


def _not_serving(
    kind: ResourceType.ValueType, resource: Resource, snapshot: Snapshot
) -> tuple[type[FailedPrecondition], str]:
    key = (HOSTED_BY[kind], resource.provider_id)
    provider, hosts = snapshot.providers.get(key), snapshot.hosts(key)
    state, reason = verdict(resource, provider, hosts)
    pending = state == ServingState.SERVING_STATE_PENDING
    return NotServing if hosts or pending or provider is None else NoInstance, reason


def _of_api(api: Api.ValueType, snapshot: Snapshot) -> _Refusal:
    word, provider = api_word(api), default_provider(api, snapshot)
    why = f"no instance of {provider.provider_id}, the default {word} provider, is running" if provider else ""
    return _Refusal(NoInstance, why or f"the mesh has no {word} provider", {})
