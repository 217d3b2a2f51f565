"""What a monitoring system wants to know of the gateway's snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gateway.snapshot import SnapshotView
from gateway.standing import Standing
from stackmesh.resources import KINDS


class SnapshotGauges(Collector):
    """Read when asked, in whatever thread: a snapshot never changes."""

    def __init__(self, view: SnapshotView, standing: Standing) -> None:
        self._view = view
        self._standing = standing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        snapshot = self._view.snapshot
        yield GaugeMetricFamily(
            "stackmesh_snapshot_age_seconds",
            "Seconds since the registry was last heard; +Inf before the first time",
            value=self._standing.age,
        )
        yield GaugeMetricFamily(
            "stackmesh_snapshot_stale",
            "1 while the snapshot may be out of date",
            value=float(self._standing.stale),
        )
        yield GaugeMetricFamily(
            "stackmesh_snapshot_revision",
            "The registry's revision that calls are routed by",
            value=float(snapshot.revision if snapshot is not None else 0),
        )
        entries = GaugeMetricFamily("stackmesh_snapshot_entries", "What the snapshot holds", labels=["kind"])
        for resource_type, kind in KINDS.items():
            entries.add_metric([kind.word], len(snapshot.resources(resource_type)) if snapshot is not None else 0)
        entries.add_metric(["provider"], len(snapshot.providers) if snapshot is not None else 0)
        entries.add_metric(["instance"], len(snapshot.instances) if snapshot is not None else 0)
        yield entries


def gauges(view: SnapshotView, standing: Standing) -> CollectorRegistry:
    """All of them."""
    registry = CollectorRegistry()
    registry.register(SnapshotGauges(view, standing))
    return registry
