"""Why a call leads nowhere, and how little it costs to say so."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.director import direct
from gateway.refusals import refusal, served_names
from gateway.snapshot import Snapshot
from stackmesh.errors import MeshError, NoInstance, NotServing, ResourceNotFound, to_status
from stackmesh.routes import ResourceType
from tests.unit.gateway.known import CHAT, DEFAULT, INFERENCE, MESH, hosting, instance, model, provider, snapshot

MODEL = ResourceType.RESOURCE_TYPE_MODEL


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
    ],
)
def test_what_leads_nowhere(entries, name: str, error: type[MeshError], words: str):
    known = snapshot(*entries)
    assert direct(CHAT, name, known) is None
    for _ in range(2):
        told = refusal(CHAT, name, known)
        assert type(told) is error
        assert words in told.message


@pytest.mark.parametrize(
    ("entries", "words"), [((), "has no inference provider"), ((provider("p"),), "no instance of p, the default")]
)
def test_an_api_nobody_hosts(entries, words: str):
    told = refusal(DEFAULT, "", snapshot(*entries))
    assert type(told) is NoInstance
    assert words in told.message


def test_the_nearest_of_many_are_named_within_the_limit_of_a_status():
    names = [f"{'m' * 240}{i:04}" for i in range(2000)]
    known = snapshot(provider("p", *names), instance("i", "p"), *(model(name) for name in names))
    told = refusal(CHAT, "m" * 244, known)
    assert "the nearest of 2000: mmm" in told.message
    assert to_status(told).ByteSize() < 2048
    short = snapshot(provider("p", *map(str, range(99))), instance("i", "p"), *(model(str(i)) for i in range(99)))
    assert refusal(CHAT, "no", short).message.count(",") == 5


class Looked(frozenset[str]):
    """What an instance lacks; counts how often that is looked up."""

    times = 0

    def __contains__(self, name: object) -> bool:
        Looked.times += 1
        return super().__contains__(name)


def crowd(names: int, hosts: int) -> Snapshot:
    """Of one provider. Every instance lacks `lost`."""
    ids = [f"n{number}" for number in range(names)]
    there = (instance(f"i{number}", hosting("p", not_served=("lost",))) for number in range(hosts))
    known = snapshot(provider("p", *ids, "lost"), *map(model, (*ids, "lost")), *there)
    key = INFERENCE, "p"
    looked = {name: host._replace(not_served=Looked(host.not_served)) for name, host in known.by_provider[key].items()}
    Looked.times = 0
    return dataclasses.replace(known, by_provider={key: looked})


def test_whether_a_name_is_served_is_known_at_the_first_instance_that_serves_it():
    known = crowd(100, 50)
    assert len(set(served_names(MODEL, known))) == 100
    assert Looked.times == 100 + 50  # not 100 * 50


def test_a_refusal_is_worked_out_once():
    known = crowd(100, 50)
    first = refusal(CHAT, "lost", known)
    times = Looked.times
    assert refusal(CHAT, "lost", known).message == first.message
    assert Looked.times == times


def test_only_so_many_are_kept():
    known = crowd(1, 1)
    for number in range(1000):
        refusal(CHAT, f"no-{number}", known)
    assert len(known.memo["refusals"]) <= 256
    assert len(known.memo) == 3  # the served names, and who hosts the provider
