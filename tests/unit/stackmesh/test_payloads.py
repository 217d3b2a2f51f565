import pytest
from google.protobuf.struct_pb2 import Struct, Value

from stackmesh import payloads
from stackmesh.errors import InvalidField
from stackmesh.registry.v1 import resources_pb2 as pb, watch_service_pb2 as watch_pb
from stackmesh.resources import kind_of


def check(row):
    payloads.check(kind_of(row), row)


def vector(**params):
    given = {"embedding_model": "e", "chunk_size_in_tokens": 512, **params}
    return pb.MemoryBank(params={"vector": given})


@pytest.mark.parametrize(
    "row",
    [
        vector(),
        vector(chunk_size_in_tokens=1),
        vector(chunk_size_in_tokens=100_000, overlap_size_in_tokens=99_999),
        vector(overlap_size_in_tokens=0),
        *(pb.MemoryBank(params={kind: {}}) for kind in ("key_value", "keyword", "graph")),
    ],
)
def test_good_banks(row):
    check(row)


@pytest.mark.parametrize(
    ("row", "field", "description"),
    [
        (pb.MemoryBank(), "params", "must say the kind of bank, one of: vector, key_value, keyword, graph"),
        (vector(embedding_model=""), "params.vector.embedding_model", "is empty"),
        (vector(embedding_model="a b"), "params.vector.embedding_model", "may hold letters, "),
        (vector(chunk_size_in_tokens=0), "params.vector.chunk_size_in_tokens", "is required: 1 to 100000"),
        (vector(chunk_size_in_tokens=-1), "params.vector.chunk_size_in_tokens", "is -1, must be 1 to 100000"),
        (vector(chunk_size_in_tokens=100_001), "params.vector.chunk_size_in_tokens", "is 100001, must be 1 to 100000"),
        (vector(overlap_size_in_tokens=-1), "params.vector.overlap_size_in_tokens", "is -1, must be 0 to 511"),
        (vector(overlap_size_in_tokens=512), "params.vector.overlap_size_in_tokens", "is 512, must be 0 to 511"),
    ],
)
def test_bad_banks(row, field, description):
    with pytest.raises(InvalidField) as raised:
        check(row)
    assert (raised.value.field, raised.value.description[: len(description)]) == (field, description)


def struct(tree):
    made = Struct()
    made.update(tree)
    return made


def nested(levels):
    tree = {"x": 1}
    for n in range(levels):
        tree = {"x": tree} if n % 2 else {"x": [tree]}
    return tree


@pytest.mark.parametrize("tree", [{}, {"a": None, "b": [1, {"c": "x"}], "d": True}, {"ä": "ö" * 8000}, nested(12)])
def test_good_metadata(tree):
    check(pb.Model(metadata=struct(tree)))
    check(pb.Shield(params=struct(tree)))


def test_what_is_nested_as_deep_as_it_may_be_can_be_watched():
    tree = {"x": 1}
    for _ in range(payloads.DEPTH_LIMIT - 1):
        tree = {"x": tree}
    row = pb.Model(metadata=struct(tree))
    check(row)
    change = watch_pb.Change(entry=watch_pb.Entry(model=row))
    response = watch_pb.WatchResponse(changes=[change])
    assert watch_pb.WatchResponse.FromString(response.SerializeToString()) == response


@pytest.mark.parametrize(
    ("tree", "description"),
    [
        ({"note": "x" * 17_000}, "takes 17018 bytes, at most 16384 are allowed"),
        ({"deep": [{"n": float("nan")}]}, "holds a number that is not finite"),
        ({"n": float("-inf")}, "holds a number that is not finite"),
        (nested(20), "is nested more than 20 levels deep"),
    ],
)
@pytest.mark.parametrize(("kind", "field"), [(pb.Model, "metadata"), (pb.Shield, "params"), (pb.Agent, "metadata")])
def test_bad_metadata(kind, field, tree, description):
    with pytest.raises(InvalidField) as raised:
        check(kind(**{field: struct(tree)}))
    assert raised.value.message == f"{field} {description}"


def test_a_value_of_no_type_is_refused():
    with pytest.raises(InvalidField, match="metadata holds a value of no type"):
        check(pb.Model(metadata=Struct(fields={"x": Value()})))
