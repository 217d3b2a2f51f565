"""What gRPC health says of each service behind the gateway, kept true as the registry changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.snapshot import Snapshot, SnapshotView
from stackmesh.routes import Api, Method
from stackmesh.server import Listener


def serving(methods: Iterable[Method], snapshot: Snapshot | None) -> Mapping[str, bool]:
    """Whether the calls of each service can be routed. The empty name is the gateway as a whole.

    An API is served while a live instance hosts it and sees nothing wrong with the backend.
    """
    known = snapshot is not None
    apis = _apis(snapshot) if known else frozenset[Api.ValueType]()
    states = {"": known}
    for method in methods:
        states[method.service] = method.api in apis if method.api else known
    return states


def _apis(snapshot: Snapshot) -> frozenset[Api.ValueType]:
    known = snapshot.by_provider.items()
    return frozenset(api for (api, _), hosts in known if any(not host.problem for host in hosts.values()))


async def keep_true(listener: Listener, methods: Iterable[Method], view: SnapshotView) -> None:
    """Tell the listener's health service what changes, for ever."""
    methods = tuple(methods)
    told: dict[str, bool] = {}
    seen: Snapshot | None = None
    states = serving(methods, seen)
    while True:
        for service, state in states.items():
            if told.get(service) is not state:
                await listener.set_serving(service, serving=state)
        told = dict(states)
        seen = await view.changed(seen)
        states = serving(methods, seen)
