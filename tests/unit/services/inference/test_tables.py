"""The tables that come with the mesh are right, and what is wrong in one is said precisely."""

from __future__ import annotations

from importlib import resources

import pytest

from services.inference import tables
from stackmesh.config import ConfigError
from stackmesh.errors import AmbiguousName, NotHosted

VENDORS = ("ollama", "fireworks", "together", "bedrock", "databricks", "nvidia")
SKUS = """
- {descriptor: L1, repo: org/L-1}
- {descriptor: "L2:a", repo: org/L-2}
- {descriptor: "L2:b", repo: org/L-2}
"""


def test_there_are_38_llama_models_and_each_is_found_by_both_names():
    known = tables.llama()
    assert len(known.skus) == 38
    for sku in known.skus:
        assert {sku.descriptor, sku.repo} <= known.names[sku.repo]
        assert known.names[sku.descriptor] == {sku.descriptor, sku.repo}


def test_every_table_that_is_there_can_be_read():
    files = {file.name.removesuffix(".yaml") for file in (resources.files("services.inference") / "models").iterdir()}
    assert files == {tables.LLAMA, *VENDORS}
    for vendor in VENDORS:
        tables.provider(vendor)


@pytest.mark.parametrize(
    ("vendor", "own"),
    [
        ("ollama", "llama3.1:70b-instruct-fp16"),
        ("fireworks", "accounts/fireworks/models/llama-v3p1-70b-instruct"),
        ("together", "meta-llama/Meta-Llama-3.1-70B-Instruct-Turbo"),
        ("bedrock", "meta.llama3-1-70b-instruct-v1:0"),
        ("databricks", "databricks-meta-llama-3-1-70b-instruct"),
        ("nvidia", "meta/llama-3.1-70b-instruct"),
    ],
)
def test_descriptor_repository_and_vendors_id_are_one_model(vendor, own):
    lookup = tables.provider(vendor)
    for name in ("Llama3.1-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct", own):
        assert lookup.resolve(name, None, vendor) == own


def test_a_quantised_model_is_not_the_model_of_the_descriptor():
    assert tables.provider("ollama").resolve("llama3.1:8b", None, "ollama") == "llama3.1:8b"
    with pytest.raises(NotHosted, match=r"'Llama3.1-8B'"):
        tables.provider("ollama").resolve("Llama3.1-8B", None, "ollama")


def test_a_server_of_ones_own_may_use_either_name():
    lookup = tables.llama_by_name()
    for served, name in (("Llama3.2-1B", "meta-llama/Llama-3.2-1B"), ("meta-llama/Llama-3.2-1B", "Llama3.2-1B")):
        assert lookup.resolve(name, [served, "other"], "vLLM") == served


def test_two_descriptors_of_one_repository():
    lookup = tables.llama_by_name()
    repo, first, second = "meta-llama/Llama-3.1-405B", "Llama3.1-405B:bf16-mp8", "Llama3.1-405B:bf16-mp16"
    assert lookup.resolve(first, [repo], "vLLM") == lookup.resolve(second, [repo], "vLLM") == repo
    with pytest.raises(AmbiguousName, match=f"{second}, {first}"):
        lookup.resolve(repo, [first, second], "vLLM")
    with pytest.raises(NotHosted):
        lookup.resolve(first, [second], "vLLM")


def test_a_vendor_may_have_a_model_twice():
    lookup = tables.provider_of("[{id: fast, model: L1}, {id: slow, model: org/L-1}]", "v", tables.llama_of(SKUS, "l"))
    with pytest.raises(AmbiguousName, match="fast, slow"):
        lookup.resolve("L1", None, "v")
    assert lookup.resolve("slow", None, "v") == "slow"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{id: a}, {id: a}]", r"t\.yaml\[1\]\.id: a is there twice"),
        ("[{id: a, model: L3}]", r"t\.yaml\[0\]\.model: no Llama model is called L3; there are: L1"),
        ("[{id: a b}]", r"t\.yaml\[0\]\.id: may hold letters, digits"),
        ("[{id: a, modle: L1}]", r"t\.yaml\[0\]\.modle: unknown key; did you mean `model`\?"),
        ("[{model: L1}]", r"t\.yaml\[0\]\.id: is required"),
        ("[{id: L1}]", r"t\.yaml\[0\]\.id: L1 is the name of another model"),
        ("[{id: org/L-2, model: L1}]", r"t\.yaml\[0\]\.id: org/L-2 is the name of another model"),
        ("id: a", r"t\.yaml: must be a list of mappings with id, model"),
        ("[{id: a", r"t\.yaml: not YAML"),
        ("[a]", r"t\.yaml\[0\]: "),
    ],
)
def test_what_is_wrong_in_a_vendors_table(text, problem):
    with pytest.raises(ConfigError, match=problem):
        tables.provider_of(text, "t.yaml", tables.llama_of(SKUS, "l"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[{descriptor: a, repo: r}, {descriptor: a, repo: s}]", r"t\.yaml\[1\]\.descriptor: a is there twice"),
        ("[{descriptor: a, repo: b}, {descriptor: b, repo: c}]", r"t\.yaml\[0\]\.repo: b is a descriptor of the table"),
        ("[{descriptor: a}]", r"t\.yaml\[0\]\.repo: is required"),
    ],
)
def test_what_is_wrong_in_the_list_of_models(text, problem):
    with pytest.raises(ConfigError, match=problem):
        tables.llama_of(text, "t.yaml")
