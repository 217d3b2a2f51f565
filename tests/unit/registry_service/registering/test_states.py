from registry_service.registering.states import States
from stackmesh.registry.v1 import resources_pb2 as pb
from stackmesh.routes import Api

INFERENCE = Api.API_INFERENCE


def instance(instance_id, *not_served, **fields):
    entry = pb.HostedProvider(api=INFERENCE, provider_id="p", not_served=not_served, **fields)
    return pb.Instance(instance_id=instance_id, providers=[entry])


def state(states, provider, hosts):
    row = pb.Model(identifier="m", provider_id="p", provider_resource_id="x")
    states.fill(row, provider, hosts)
    return row.serving_state, row.serving_reason


def test_a_resource_is_judged_by_what_is_known_now():
    states, provider = States(), pb.Provider(api=INFERENCE, provider_id="p", served=["x"])
    one, lacking = {"i": instance("i")}, {"i": instance("i", "x", problem="the disk is full")}
    failed = {"i": instance("i", "x", failures=[pb.Failure(provider_resource_id="x", reason="no such file")])}
    serving, not_serving = pb.SERVING_STATE_SERVING, pb.SERVING_STATE_NOT_SERVING
    for _ in range(2):
        assert state(states, provider, one) == (serving, "")
        assert state(states, provider, lacking) == (
            not_serving,
            "the provider p does not serve x now: the disk is full",
        )
        assert state(states, provider, {"i": instance("i", serves_nothing=True)})[0] == not_serving
        assert state(states, provider, failed)[1].endswith("does not serve x now: no such file")
        assert state(states, provider, {**lacking, "j": instance("j")}) == (serving, "")
        assert state(states, provider, {}) == (not_serving, "no instance of the provider p is running")
        assert state(states, None, {}) == (
            not_serving,
            "no instance of the provider p is running, nor does the YAML name it",
        )
    without = pb.Provider(api=INFERENCE, provider_id="p")
    assert state(states, without, one) == (not_serving, "the provider p does not serve x now")


def test_what_has_not_changed_is_looked_at_once():
    looked = 0

    class Provider:
        provider_id = "p"
        api = INFERENCE

        @property
        def served(self):
            nonlocal looked
            looked += 1
            return ["x"]

    states, provider, hosts = States(), Provider(), {"i": instance("i")}
    for _ in range(100):
        assert state(states, provider, hosts)[0] == pb.SERVING_STATE_SERVING
    assert looked == 1
    state(states, provider, dict(hosts))
    assert looked == 2
