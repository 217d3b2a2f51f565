from __future__ import annotations

import pytest

from gateway.director import direct, served_names
from gateway.snapshot import Endpoint
from stackmesh.errors import InvalidField, MeshError, NoInstance, NotServing, ResourceNotFound, to_status
from stackmesh.headers import PROVIDER_ID, PROVIDER_RESOURCE_ID, RESOURCE, REVISION
from stackmesh.registry.v1 import resources_pb2 as r
from stackmesh.routes import Method, ResourceType
from stackmesh.routing.v1 import routing_pb2
from stackmesh.serving import ServingState, judge
from tests.unit.gateway.known import (
    CHAT,
    INFERENCE,
    changes,
    gone,
    handover,
    hosting,
    instance,
    model,
    provider,
    snapshot,
)

DEFAULT = Method(
    "/x.Y/Z", "x.Y", routing_pb2.Route(api=INFERENCE), client_streaming=False, server_streaming=False,
    idempotent=False, read_key=None,
)  # fmt: skip
MODEL = ResourceType.RESOURCE_TYPE_MODEL
MESH = (
    model("chat", "p", "vendor/chat-1"),
    model("other", "q", "other"),
    model("half", "p", "half"),
    provider("p", "vendor/chat-1", "half", position=1),
    provider("q", "other"),
    instance("one", "p", address="h:1"),
    instance("two", hosting("p", not_served=("half",)), address="h:2"),
    instance("three", "q", address="h:3"),
)


def test_a_name_leads_to_those_who_serve_it():
    target = direct(CHAT, "chat", snapshot(*MESH))
    assert target.endpoints == (Endpoint("one", "h:1"), Endpoint("two", "h:2"))
    assert (target.provider_id, target.provider_type) == ("p", "inline::x")
    assert target.routed == ((PROVIDER_ID, "p"), (PROVIDER_RESOURCE_ID, "vendor/chat-1"), (RESOURCE, "chat"))
    assert target.answered == ((REVISION, "7"),)


def test_an_instance_that_does_not_serve_it_is_left_out():
    assert direct(CHAT, "half", snapshot(*MESH)).endpoints == (Endpoint("one", "h:1"),)


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
    with pytest.raises(NotServing, match="the provider q does not serve next now"):
        direct(CHAT, "chat", lost)
    assert "chat" not in served_names(MODEL, lost)
    over = known.after(changes(gone(handover("chat"))), 8)
    with pytest.raises(NotServing):
        direct(CHAT, "chat", over)


def test_what_was_of_a_name_that_is_gone_is_not_called():
    known = snapshot(*MESH, handover("gone", "p", "vendor/chat-1"))
    with pytest.raises(ResourceNotFound):
        direct(CHAT, "gone", known)
    assert "gone" not in served_names(MODEL, known)


@pytest.mark.parametrize(
    ("entries", "name", "error", "words"),
    [
        ((), "chat", ResourceNotFound, "no model is called 'chat'; served now, there are none"),
        (MESH, "chatt", ResourceNotFound, "served now, there are: chat,"),
        ((model("m"),), "m", NotServing, "no instance of the provider p is running, nor does the YAML name it"),
        ((model("m"), provider("p", "m")), "m", NoInstance, "no instance of the provider p is running"),
        ((model("m"), provider("p"), instance("i", "p")), "m", NotServing, "does not serve m now"),
        (
            (model("m"), provider("p"), instance("i", hosting("p", problem="it is cold"))),
            "m",
            NotServing,
            "it is cold",
        ),
        ((*MESH, model("m", "", pending_reason="not yet")), "m", NotServing, "not yet; served now, there are:"),
        (MESH, "", InvalidField, "model_id is empty"),
        (MESH, "x" * 10_240, InvalidField, "model_id is 10240 characters long"),
        (MESH, "../etc", InvalidField, "model_id may hold"),
        (MESH, "näme", InvalidField, "model_id may hold"),
    ],
)
def test_what_leads_nowhere(entries, name: str, error: type[MeshError], words: str):
    with pytest.raises(error) as caught:
        direct(CHAT, name, snapshot(*entries))
    assert words in caught.value.message


@pytest.mark.parametrize("entries", [(), (provider("p"),)])
def test_an_api_nobody_hosts(entries):
    with pytest.raises(NoInstance):
        direct(DEFAULT, "", snapshot(*entries))


def test_the_nearest_of_many_are_named_within_the_limit_of_a_status():
    names = [f"{'m' * 240}{i:04}" for i in range(2000)]
    known = snapshot(provider("p", *names), instance("i", "p"), *(model(name) for name in names))
    with pytest.raises(ResourceNotFound) as caught:
        direct(CHAT, "m" * 244, known)
    assert "the nearest of 2000: mmm" in caught.value.message
    assert to_status(caught.value).ByteSize() < 2048
    short = snapshot(provider("p", *map(str, range(99))), instance("i", "p"), *(model(str(i)) for i in range(99)))
    with pytest.raises(ResourceNotFound) as caught:
        direct(CHAT, "no", short)
    assert caught.value.message.count(",") == 5


def test_errors_leave_nothing_behind():
    known = snapshot(*MESH)
    for i in range(100):
        with pytest.raises(ResourceNotFound):
            direct(CHAT, f"no-{i}", known)
    assert len(known.memo) == 1  # the served names


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
