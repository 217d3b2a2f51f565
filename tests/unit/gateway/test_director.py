from __future__ import annotations

import pytest

from gateway.director import direct
from gateway.refusals import served_names
from gateway.snapshot import Endpoint, Snapshot
from stackmesh.errors import InvalidField
from stackmesh.headers import PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, REVISION
from stackmesh.registry.v1 import resources_pb2 as r
from stackmesh.routes import ResourceType
from stackmesh.serving import ServingState, judge
from tests.unit.gateway.known import (
    CHAT,
    DEFAULT,
    MESH,
    changes,
    gone,
    handover,
    hosting,
    instance,
    model,
    provider,
    snapshot,
)

MODEL = ResourceType.RESOURCE_TYPE_MODEL


def test_a_name_leads_to_those_who_serve_it():
    target = direct(CHAT, "chat", snapshot(*MESH))
    assert target.endpoints == (Endpoint("one", "h:1"), Endpoint("two", "h:2"))
    assert (target.provider_id, target.provider_type) == ("p", "inline::x")
    assert target.routed == ((PROVIDER_ID, "p"), (PROVIDER_RESOURCE_ID, "vendor/chat-1"), (RESOURCE, "chat"))
    assert target.answered == ((REVISION, "7"),)


def test_an_instance_that_does_not_serve_it_is_left_out():
    assert direct(CHAT, "half", snapshot(*MESH)).endpoints == (Endpoint("one", "h:1"),)
    down = instance("two", hosting("p", serves_nothing=True), address="h:2")
    assert direct(CHAT, "chat", snapshot(*MESH, down)).endpoints == (Endpoint("one", "h:1"),)


def test_it_is_decided_once_a_snapshot():
    known = snapshot(*MESH)
    assert direct(CHAT, "chat", known) is direct(CHAT, "chat", known)
    later = known.after(changes(instance("two")), 8)
    assert direct(CHAT, "chat", later).endpoints == (Endpoint("one", "h:1"),)


def test_the_default_provider_is_the_first_of_the_yaml():
    target = direct(DEFAULT, "", snapshot(*MESH, provider("a", source=r.SOURCE_DISCOVERED)))
    assert target.endpoints == (Endpoint("three", "h:3"),)
    assert target.routed == ((PROVIDER_ID, "q"),)


def test_until_what_a_name_stands_for_is_served_calls_go_to_what_it_stood_for():
    known = snapshot(*MESH, model("chat", "q", "next"), handover("chat", "p", "vendor/chat-1"))
    target = direct(CHAT, "chat", known)
    assert target.endpoints == (Endpoint("one", "h:1"), Endpoint("two", "h:2"))
    assert target.routed == ((PROVIDER_ID, "p"), (PROVIDER_RESOURCE_ID, "vendor/chat-1"), (RESOURCE, "chat"))
    assert "chat" in served_names(MODEL, known)
    served = known.after(changes(provider("q", "other", "next")), 8)
    assert direct(CHAT, "chat", served).endpoints == (Endpoint("three", "h:3"),)
    lost = known.after(changes(provider("p", "half")), 8)
    assert direct(CHAT, "chat", lost) is None
    assert "chat" not in served_names(MODEL, lost)
    over = known.after(changes(gone(handover("chat"))), 8)
    assert direct(CHAT, "chat", over) is None


def test_what_was_of_a_name_that_is_gone_is_not_called():
    known = snapshot(*MESH, handover("gone", "p", "vendor/chat-1"))
    assert direct(CHAT, "gone", known) is None
    assert "gone" not in served_names(MODEL, known)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "model_id is empty"),
        ("x" * 10_240, "model_id is 10240 characters long"),
        ("../etc", "model_id may hold"),
        ("näme", "model_id may hold"),
    ],
)
def test_what_can_be_no_name(name: str, words: str):
    with pytest.raises(InvalidField, match=words):
        direct(CHAT, name, snapshot(*MESH))


@pytest.mark.parametrize("entries", [(), (provider("p"),)])
def test_an_api_nobody_hosts(entries):
    assert direct(DEFAULT, "", snapshot(*entries)) is None


def test_misses_leave_nothing_behind():
    known = snapshot(*MESH)
    for i in range(100):
        assert direct(CHAT, f"no-{i}", known) is None
    assert not known.memo


def crowd(hosts: int, *lacking: int) -> Snapshot:
    """10 names, and that many instances; those at some places lack `n0`."""
    names = [f"n{i}" for i in range(10)]
    instances = (
        instance(f"i{number:04}", hosting("p", not_served=("n0",) if number in lacking else ()), address=f"h:{number}")
        for number in range(hosts)
    )
    return snapshot(provider("p", *names), *map(model, names), *instances)


def test_names_that_all_instances_serve_share_their_endpoints():
    known = crowd(100, 7)
    targets = [direct(CHAT, f"n{i}", known) for i in range(10)]
    assert all(target.endpoints is targets[1].endpoints for target in targets[2:])
    assert len(targets[1].endpoints) == 100
    assert [e.instance_id for e in targets[0].endpoints] == [f"i{n:04}" for n in range(100) if n != 7]


def test_served_names_are_what_the_judge_says():
    entries = (*MESH, model("cold", "p"), model("late", "p", "half", pending_reason="?"), model("lost", "no"))
    providers = {entry.provider.provider_id: entry.provider for entry in entries if entry.HasField("provider")}
    instances = [entry.instance for entry in entries if entry.HasField("instance")]
    judged = {
        entry.model.identifier
        for entry in entries
        if entry.HasField("model")
        and judge(entry.model, providers.get(entry.model.provider_id), instances)[0]
        == ServingState.SERVING_STATE_SERVING
    }
    assert set(served_names(MODEL, snapshot(*entries))) == judged == {"chat", "other", "half"}
