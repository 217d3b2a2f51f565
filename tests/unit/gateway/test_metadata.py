from __future__ import annotations

import json
import re

import pytest

from gateway import metadata
from stackmesh.errors import InvalidProviderData, InvalidRoute
from stackmesh.headers import (
    PROVIDER_DATA,
    PROVIDER_DATA_ALIASES,
    PROVIDER_DATA_LIMIT,
    REQUEST_ID,
    REVISION,
    ROUTE,
    ROUTED,
    SERVED_BY,
    TRACEPARENT,
)


def test_what_only_the_gateway_says_is_removed():
    spoofed = tuple((key, "mine") for key in (*ROUTED, SERVED_BY, REVISION))
    kept = (("x-mine", "a"), ("x-mine", "b"), ("x-mine-bin", b"\xff"), ("grpc-trace-bin", b"t"))
    forwarded, _ = metadata.read((*spoofed, ("te", "trailers"), ("user-agent", "me"), ("grpc-timeout", "1S"), *kept))
    assert tuple(pair for pair in forwarded if pair[0] not in (REQUEST_ID, TRACEPARENT)) == kept
    assert metadata.answered((*spoofed, *kept)) == list(kept)


def test_correlation_is_made_when_absent():
    first, second = (dict(metadata.read(())[0]) for _ in range(2))
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", str(first[TRACEPARENT]))
    assert first[REQUEST_ID] != second[REQUEST_ID]
    own = {REQUEST_ID: "r", TRACEPARENT: "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
    assert dict(metadata.read(tuple(own.items()))[0]) == own


@pytest.mark.parametrize("key", [PROVIDER_DATA, *PROVIDER_DATA_ALIASES])
def test_provider_data_goes_on_under_our_name(key: str):
    value = json.dumps({"key": "v"})
    forwarded, _ = metadata.read(((key, value), (PROVIDER_DATA_ALIASES[0], value)))
    assert [pair for pair in forwarded if "provider" in pair[0]] == [(PROVIDER_DATA, value)]


@pytest.mark.parametrize(
    "pairs",
    [
        ((PROVIDER_DATA, '{"k":"sk-canary"}'), (PROVIDER_DATA_ALIASES[0], '{"k":"sk-other"}')),
        ((PROVIDER_DATA, '{"k":"sk-canary"}'), (PROVIDER_DATA, '{"k":"sk-other"}')),
        ((PROVIDER_DATA, "sk-canary"),),
        ((PROVIDER_DATA, '["sk-canary"]'),),
        ((PROVIDER_DATA, ""),),
        ((PROVIDER_DATA, "[" * PROVIDER_DATA_LIMIT),),
        ((PROVIDER_DATA, '{"k":"' + "sk-canary" * 500 + '"}'),),
    ],
)
def test_bad_provider_data_is_refused_and_not_shown(pairs):
    with pytest.raises(InvalidProviderData) as caught:
        metadata.read(pairs)
    assert "canary" not in caught.value.message


def test_provider_data_may_have_the_whole_limit():
    value = json.dumps({"k": "x" * (PROVIDER_DATA_LIMIT - 9)})
    assert len(value) == PROVIDER_DATA_LIMIT
    metadata.read(((PROVIDER_DATA, value),))


@pytest.mark.parametrize(
    ("route", "name"),
    [("model=a", "a"), ("model=org%2Fm", "org/m"), ("model=org/m:8b", "org/m:8b"), ("model=%2525", "%25")],
)
def test_a_route_is_decoded_once(route: str, name: str):
    assert metadata.route_name(route, "model") == name


@pytest.mark.parametrize("route", ["", "model", "shield=a", "MODEL=a", "model=%", "model=%2", "model=%zz", "model=%ff"])
def test_a_bad_route_is_refused(route: str):
    with pytest.raises(InvalidRoute):
        metadata.route_name(route, "model")


def test_two_routes_that_differ_are_refused():
    assert metadata.read(((ROUTE, "model=a"), (ROUTE, "model=a")))[1] == "model=a"
    with pytest.raises(InvalidRoute):
        metadata.read(((ROUTE, "model=a"), (ROUTE, "model=b")))
