"""The committed code and descriptors are what the protos give, and the checks that say so can fail."""

import shutil

import pytest

from scripts import protos
from stackmesh import errors, routes
from stackmesh.common.v1 import error_reason_pb2
from stackmesh.routes import Api, ResourceType


@pytest.fixture
def checkout(tmp_path):
    """A copy of the protos and of what was generated from them."""
    for folder in ("protos", "stackmesh"):
        shutil.copytree(protos.ROOT / folder, tmp_path / folder)
    return tmp_path


def test_generated_code_is_fresh():
    assert protos.stale(protos.ROOT) == []


def test_a_changed_proto_makes_it_stale(checkout):
    proto = checkout / "protos/stackmesh/registry/v1/models_service.proto"
    proto.write_text(proto.read_text().replace("string provider_model_id = 2;", "string provider_model_id = 9;"))
    stale = protos.stale(checkout)
    assert "stackmesh/registry/v1/models_service_pb2.py" in stale
    assert "stackmesh/descriptors.binpb" in stale


def test_a_removed_proto_leaves_no_code_behind(checkout):
    (checkout / "protos/stackmesh/inspect/v1/inspect_service.proto").unlink()
    assert "stackmesh/inspect/v1/inspect_service_pb2.py" in protos.stale(checkout)


def test_every_reason_of_the_contract_has_one_error_and_the_other_way_round():
    contract = {v.name.removeprefix("ERROR_REASON_") for v in error_reason_pb2.ErrorReason.DESCRIPTOR.values}
    contract.discard("UNSPECIFIED")
    raised = [kind.reason for kind in _leaves(errors.MeshError) if kind.reason]
    assert sorted(raised) == sorted(contract)


def _leaves(kind):
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from (c for c in _leaves(child))


def test_the_comment_of_a_reason_begins_with_its_status():
    text = (protos.ROOT / "protos/stackmesh/common/v1/error_reason.proto").read_text()
    for kind in _leaves(errors.MeshError):
        if kind.reason:
            comment = text.split(f"  ERROR_REASON_{kind.reason} =")[0].rpartition("\n\n")[2].rpartition(";\n")[2]
            assert kind.code.name in comment, kind


@pytest.fixture(scope="module")
def table():
    return routes.load(routes.bundled())


def test_what_is_not_exposed_is_not_in_the_table(table):
    hidden = ("AnnounceService", "ProviderService", "GetRevision")
    assert not [path for path in table if any(name in path for name in hidden)]


def test_inference_is_routed_by_its_model(table):
    methods = [m for m in table.values() if m.service == "stackmesh.inference.v1.InferenceService"]
    assert len(methods) == 5
    for method in methods:
        assert method.route.resource_type == ResourceType.RESOURCE_TYPE_MODEL
        assert method.route.field == "model_id"
        assert method.api == Api.API_INFERENCE
        assert method.idempotent == method.path.endswith("/Embeddings")


def test_every_resource_type_says_which_api_hosts_it():
    assert set(routes.HOSTED_BY) == {v for v in ResourceType.values() if v}
    assert Api.API_UNSPECIFIED not in routes.HOSTED_BY.values()
