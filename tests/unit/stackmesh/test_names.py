import pytest

from stackmesh import names
from stackmesh.errors import InvalidField

GOOD = ["m", "Llama3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", "llama3.1:8b-instruct-fp16", "a" * 255, "x@1+2_3"]
BAD = ["", "-a", ".a", "a b", "a%41", "a\n", "ä", "a" * 256, "a" * 10_240, "a,b", "a\x00"]


@pytest.mark.parametrize("name", GOOD)
def test_good_resource_names(name):
    assert names.check_resource_name("model_id", name) == name


@pytest.mark.parametrize("name", BAD)
def test_bad_resource_names_are_refused_with_the_field_and_without_the_value(name):
    with pytest.raises(InvalidField) as caught:
        names.check_resource_name("model_id", name)
    assert caught.value.message.startswith("model_id ")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", ["local", "vllm-1", "0", "a" * 63])
def test_good_ids(name):
    assert names.check_id("provider_id", name) == name


@pytest.mark.parametrize("name", ["", "Local", "a/b", "a:b", "a" * 64, "a\n"])
def test_bad_ids(name):
    with pytest.raises(InvalidField):
        names.check_id("provider_id", name)


@pytest.mark.parametrize("name", ["inline::echo", "remote::vllm", "inline::meta-reference::x", "remote::" + "a" * 63])
def test_good_provider_types(name):
    assert names.check_provider_type("provider_type", name) == name


@pytest.mark.parametrize(
    "name", ["", "echo", "local::echo", "inline::", "inline::Echo", "inline::a\n", "inline::" + "a" * 64]
)
def test_bad_provider_types(name):
    with pytest.raises(InvalidField, match="provider_type must be inline::NAME or remote::NAME"):
        names.check_provider_type("provider_type", name)


def test_the_meshs_own_names_are_kept_for_it():
    for name in ("stackmesh/gateway", "stackmesh/"):
        with pytest.raises(InvalidField, match="model_id begins with stackmesh/, which is kept for the mesh itself"):
            names.check_identifier("model_id", name)
        assert names.check_resource_name("provider_model_id", name) == name
    for name in ("stackmesh", "stackmesh-1", "my/stackmesh/"):
        assert names.check_identifier("model_id", name) == name
