"""How good the snapshot is, as Inspect and the gauges tell it."""

from __future__ import annotations

import math

import pytest
from prometheus_client import generate_latest

from gateway.gauges import gauges
from gateway.snapshot import SnapshotView
from gateway.standing import Standing
from tests.unit.gateway.known import instance, model, provider


class Heard:
    """A reflector as far as it matters."""

    age = 1.5
    stale = False


@pytest.fixture
def view():
    return SnapshotView()


@pytest.fixture
def standing(view):
    return Standing(view, Heard(), clock=lambda: 1000.0)


def test_of_none(standing):
    assert (standing.age, standing.from_file) == (math.inf, False)


def test_of_a_file(view, standing):
    view.replace([model("m")], 3, "one", saved_at=940.0)
    assert (standing.age, standing.from_file, standing.stale) == (60.0, True, True)


def test_of_a_file_of_tomorrow(view, standing):
    view.replace([model("m")], 3, "one", saved_at=2000.0)
    assert standing.age == 0.0


def test_of_what_the_registry_told(view, standing):
    view.replace([model("m")], 3, "one")
    assert (standing.age, standing.from_file, standing.stale) == (1.5, False, False)


def test_the_gauges(view, standing):
    exposed = gauges(view, standing)
    assert "stackmesh_snapshot_age_seconds +Inf" in generate_latest(exposed).decode()
    view.replace([model("m"), model("n"), provider("p", "m"), instance("i", "p")], 3, "one", saved_at=940.0)
    text = generate_latest(exposed).decode()
    for line in (
        "stackmesh_snapshot_age_seconds 60.0",
        "stackmesh_snapshot_stale 1.0",
        "stackmesh_snapshot_revision 3.0",
        'stackmesh_snapshot_entries{kind="model"} 2.0',
        'stackmesh_snapshot_entries{kind="shield"} 0.0',
        'stackmesh_snapshot_entries{kind="provider"} 1.0',
        'stackmesh_snapshot_entries{kind="instance"} 1.0',
    ):
        assert line in text.splitlines()
