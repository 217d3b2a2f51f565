import pytest

from registry_service import records
from registry_service.sqlite.store import SqliteStore
from registry_service.store import Delete, Put, Row
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2
from stackmesh.routes import Api

RECORDS = [
    (pb.Model(identifier="a/b:c", provider_id="p"), "model/a/b:c"),
    (pb.Provider(api=Api.API_SAFETY, provider_id="p"), "provider/safety/p"),
    (pb.Instance(instance_id="i", address="127.0.0.1:1"), "instance/i"),
]


@pytest.mark.parametrize(("record", "key"), RECORDS)
def test_a_record_comes_back_with_its_rows_revision(record, key):
    record.revision = 99
    assert records.key_of(record) == key
    [entry] = records.entries([Row(key, records.encode(record), 7)])
    assert entry.key == key
    found = getattr(entry, entry.WhichOneof("value"))
    assert found.revision == 7
    record.revision = 7
    assert found == record


def test_what_is_only_a_view_is_not_stored_and_the_record_is_left_alone():
    model = pb.Model(identifier="m", revision=3, serving_state=pb.SERVING_STATE_SERVING, serving_reason="x")
    assert records.encode(model) == records.encode(pb.Model(identifier="m"))
    assert (model.revision, model.serving_reason) == (3, "x")


def test_equal_records_are_equal_bytes():
    one, two = pb.Model(identifier="m"), pb.Model(identifier="m")
    one.metadata.update({"a": 1, "b": {"c": 2, "d": 3}})
    two.metadata.update({"b": {"d": 3, "c": 2}, "a": 1})
    assert records.encode(one) == records.encode(two)


def test_a_deletion_is_a_key_alone():
    [entry] = records.entries([Delete("model/m")])
    assert entry == watch_service_pb2.Entry(key="model/m")
    assert records.of_entry(entry) is None


def test_what_cannot_be_read_is_left_out_and_named_in_the_log(caplog):
    good = records.encode(pb.Model(identifier="m"))
    rows = [Row("later/x", b"", 1), Row("model/bad", b"\xff", 1), Row("model/m", good, 1), Delete("later/y")]
    assert [entry.key for entry in records.entries(rows)] == ["model/m"]
    assert [r.message for r in caplog.records] == ["what is kept under model/bad cannot be read: left out"]


def test_one_row_that_cannot_be_read_does_not_cost_the_list(caplog):
    rows = [Row("model/bad", b"\xff", 1), Row("model/m", records.encode(pb.Model(identifier="m")), 2)]
    assert records.readable(rows, records.resource) == [pb.Model(identifier="m", revision=2)]
    assert [r.message for r in caplog.records] == ["what is kept under model/bad cannot be read: left out"]


async def test_all_rows_are_read_at_one_revision(tmp_path):
    async with SqliteStore(tmp_path / "r.db") as store:
        for start in range(0, 1200, 50):
            models = [pb.Model(identifier=f"m{n:04}") for n in range(start, start + 50)]
            revision = await store.commit([Put(records.key_of(m), records.encode(m)) for m in models])
        await store.commit([Delete("model/m0000")])
        found, at = await records.read(store, "model/", records.resource, revision)
        assert [m.identifier for m in found] == [f"m{n:04}" for n in range(1200)]
        assert at == revision
        assert len((await records.read(store, "model/", records.resource))[0]) == 1199
