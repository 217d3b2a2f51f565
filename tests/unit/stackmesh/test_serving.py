import pytest

from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api
from stackmesh.serving import judge, serves

SERVING, NOT_SERVING, PENDING = (
    pb.SERVING_STATE_SERVING,
    pb.SERVING_STATE_NOT_SERVING,
    pb.SERVING_STATE_PENDING,
)
MODEL = pb.Model(identifier="m", provider_id="p", provider_resource_id="r")


def provider(*served, api=Api.API_INFERENCE):
    return pb.Provider(api=api, provider_id="p", served=served)


def instance(*not_served, provider_id="p", api=Api.API_INFERENCE, **fields):
    entry = pb.HostedProvider(api=api, provider_id=provider_id, not_served=not_served, **fields)
    return pb.Instance(instance_id="i", providers=[entry])


@pytest.mark.parametrize(
    ("model", "row", "instances", "state", "reason"),
    [
        (MODEL, provider("r"), [instance()], SERVING, ""),
        (MODEL, provider("r"), [instance("r"), instance()], SERVING, ""),
        (MODEL, provider("r"), [instance("r")], NOT_SERVING, "the provider p does not serve r now"),
        (
            MODEL,
            provider("r"),
            [instance(serves_nothing=True, problem="down")],
            NOT_SERVING,
            "the provider p does not serve r now: down",
        ),
        (MODEL, provider("r"), [instance(serves_nothing=True), instance()], SERVING, ""),
        (MODEL, provider("x"), [instance()], NOT_SERVING, "the provider p does not serve r now"),
        (
            MODEL,
            provider(),
            [instance(), instance(problem="backend down")],
            NOT_SERVING,
            "the provider p does not serve r now: backend down",
        ),
        (MODEL, provider("r"), [], NOT_SERVING, "no instance of the provider p is running"),
        (MODEL, provider("r"), [instance(provider_id="q")], NOT_SERVING, "no instance of the provider p is running"),
        (MODEL, provider("r"), [instance(api=Api.API_SAFETY)], NOT_SERVING, "no instance of the provider p is running"),
        (MODEL, None, [instance()], NOT_SERVING, "no instance of the provider p is running, nor does the YAML name it"),
        (pb.Model(identifier="m", pending_reason="not yet"), None, [], PENDING, "not yet"),
    ],
)
def test_judgement(model, row, instances, state, reason):
    assert judge(model, row, instances) == (state, reason)


def test_the_reason_is_the_resources_own_before_the_backends():
    other, own = pb.Failure(provider_resource_id="x", reason="no"), pb.Failure(provider_resource_id="r", reason="torn")
    failing = instance("r", problem="slow")
    failing.providers[0].failures.extend([other, own])
    assert judge(MODEL, provider("r"), [instance("r", problem="cold"), failing]) == (
        NOT_SERVING,
        "the provider p does not serve r now: torn",
    )


def test_one_instance_serves_or_does_not():
    assert serves(provider("r"), instance(), "r")
    assert not serves(provider("r"), instance("r"), "r")
    assert not serves(provider("r"), instance(serves_nothing=True), "r")
    assert not serves(provider("r"), instance(), "x")
    assert not serves(provider("r"), instance(provider_id="q"), "r")
