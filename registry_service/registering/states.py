"""The serving states of resources, with what is known of a provider looked at once, however many resources it has."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.resources import Resource, earlier
from stackmesh.serving import ServingState, hosted, still, verdict

Hosts = Mapping[str, pb.Instance]
"""The live instances that host a provider, by id."""

Look = Callable[[str], tuple[pb.Provider | None, Hosts]]
"""What there is of a provider, by its id."""


@dataclass(frozen=True, slots=True)
class _Host:
    """How an instance hosts the provider, quick to ask."""

    serves_nothing: bool
    not_served: frozenset[str]
    problem: str
    failures: Sequence[pb.Failure]


class _Offer:
    """What a provider serves, quick to ask."""

    def __init__(self, provider: pb.Provider, hosts: Hosts) -> None:
        self.provider = provider
        self.by_id = hosts
        self.provider_id = provider.provider_id
        self.served = frozenset(provider.served)
        entries = (hosted(provider, instance) for instance in hosts.values())
        self.hosts = [
            _Host(e.serves_nothing, frozenset(e.not_served), e.problem, e.failures) for e in entries if e is not None
        ]


class States:
    """Judges resources of one API. It keeps what it has looked at for as long as that is the very same."""

    def __init__(self) -> None:
        self._offers: dict[str, _Offer] = {}

    def tell(self, row: Resource, handover: pb.Handover | None, look: Look) -> None:
        """As `fill`; and if the row is not served, but what it stood for before is, say that."""
        self.fill(row, *look(row.provider_id))
        if handover is None or row.serving_state == ServingState.SERVING_STATE_SERVING:
            return
        before = copy.deepcopy(earlier(handover))
        self.fill(before, *look(before.provider_id))
        if before.serving_state == ServingState.SERVING_STATE_SERVING:
            row.serving_state, row.serving_reason = still(before, row.serving_reason)

    def fill(self, row: Resource, provider: pb.Provider | None, hosts: Hosts) -> None:
        """Set the row's serving state, and why it is not SERVING. `provider` and `hosts` are those it names."""
        if provider is None:
            row.serving_state, row.serving_reason = verdict(row, None, ())
            return
        offer = self._offers.get(provider.provider_id)
        if offer is None or offer.provider is not provider or offer.by_id is not hosts:
            offer = self._offers[provider.provider_id] = _Offer(provider, hosts)
        row.serving_state, row.serving_reason = verdict(row, offer, offer.hosts)
