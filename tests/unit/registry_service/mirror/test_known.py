import random

from registry_service import records
from registry_service.mirror.known import Known
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2
from stackmesh.resources import KINDS
from stackmesh.routes import Api, ResourceType

MODEL, SHIELD = KINDS[ResourceType.RESOURCE_TYPE_MODEL], KINDS[ResourceType.RESOURCE_TYPE_SHIELD]
INFERENCE, SAFETY = Api.API_INFERENCE, Api.API_SAFETY


def entry(record):
    key = records.key_of(record)
    found = watch_service_pb2.Entry(key=key)
    getattr(found, key.partition("/")[0]).CopyFrom(record)
    return found


def gone(key):
    return watch_service_pb2.Entry(key=key)


def instance(instance_id, *providers):
    entries = [pb.HostedProvider(api=api, provider_id=p) for api, p in providers]
    return pb.Instance(instance_id=instance_id, address="127.0.0.1:1", providers=entries)


def test_records_are_found_by_key_type_and_name():
    model, shield = pb.Model(identifier="a/b:c"), pb.Shield(identifier="a/b:c")
    provider = pb.Provider(api=SAFETY, provider_id="p")
    known = Known().after(map(entry, [model, shield, provider]), 7)
    assert known.get("model/a/b:c") == known.resource(MODEL, "a/b:c") == model
    assert known.resources(SHIELD) == {"a/b:c": shield}
    assert known.provider(SAFETY, "p") == known.get("provider/safety/p") == provider
    assert known.provider(INFERENCE, "p") is known.get("model/x") is known.get("nonsense") is None
    assert known.instances() == {}
    assert repr(known) == "<Known [revision 7: 1 model, 1 shield, 1 provider]>"


def test_providers_come_in_the_order_of_the_yaml():
    rows = [
        pb.Provider(api=INFERENCE, provider_id="c", position=0),
        pb.Provider(api=INFERENCE, provider_id="b", position=1 << 16),
        pb.Provider(api=INFERENCE, provider_id="a", position=1 << 16),
        pb.Provider(api=SAFETY, provider_id="c", position=0),
    ]
    known = Known().after(map(entry, rows), 1)
    assert [p.provider_id for p in known.providers(INFERENCE)] == ["c", "a", "b"]
    assert [p.provider_id for p in known.providers()] == ["c", "a", "b", "c"]


def test_a_known_never_changes():
    one = Known().after([entry(pb.Model(identifier="m")), entry(instance("i", (INFERENCE, "p")))], 1)
    two = one.after([gone("model/m"), gone("instance/i"), entry(pb.Model(identifier="n"))], 2)
    assert (set(one.resources(MODEL)), set(one.hosts(INFERENCE, "p"))) == ({"m"}, {"i"})
    assert (set(two.resources(MODEL)), set(two.hosts(INFERENCE, "p"))) == ({"n"}, set())
    assert (one.revision, two.revision) == (1, 2)


def test_the_index_of_hosts_follows_every_change():
    rng, known = random.Random(7), Known()  # noqa: S311 -- a fixed seed
    providers = [(INFERENCE, "p"), (INFERENCE, "q"), (SAFETY, "p")]
    for revision in range(1, 500):
        changes = []
        for _ in range(rng.randint(1, 4)):
            name = f"i{rng.randint(0, 5)}"
            hosted = rng.sample(providers, rng.randint(0, 3))
            changes.append(gone(f"instance/{name}") if rng.random() < 0.3 else entry(instance(name, *hosted)))
        known = known.after(changes, revision)
        for api, provider_id in providers:
            hosts = {
                i: found
                for i, found in known.instances().items()
                if any((h.api, h.provider_id) == (api, provider_id) for h in found.providers)
            }
            assert known.hosts(api, provider_id) == hosts
