"""The backup file: what is written is read as it was, and what is wrong with a file is told with its line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from stackmesh.cli import backup
from stackmesh.client.registrations import bank_params
from stackmesh.client.structs import EXACT, from_struct, to_struct
from stackmesh.config import ConfigError, parse
from stackmesh.registry.v1.resources_pb2 import (
    SOURCE_CONFIG,
    SOURCE_DISCOVERED,
    SOURCE_USER,
    Agent,
    MemoryBank,
    Model,
    Shield,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
NUMBERS = st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,20}", fullmatch=True)
BANKS = st.sampled_from(
    [
        {"vector": {"embedding_model": "a:b/c@d", "chunk_size_in_tokens": 512}},
        {"vector": {"embedding_model": "m", "chunk_size_in_tokens": 5, "overlap_size_in_tokens": 0}},
        {"key_value": {}},
        {"keyword": {}},
        {"graph": {}},
    ]
)


def named(message, name, **more):
    return message(identifier=name, provider_id="p", provider_resource_id="theirs", source=SOURCE_USER, **more)


def read(tmp_path, text) -> backup.Backup:
    path = tmp_path / "backup.yaml"
    path.write_text(text, encoding="utf-8")
    return backup.read(path)


# The folder is made once for all examples; each overwrites the file.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(NAMES, st.dictionaries(TEXT, VALUES, max_size=3), BANKS), max_size=3, unique_by=lambda x: x[0])
)
def test_what_is_written_is_read_as_it_was(tmp_path, rows):
    resources = []
    for name, values, bank in rows:
        resources += [
            named(Model, name, metadata=to_struct("m", values)),
            named(Shield, name, params=to_struct("p", values)),
            named(MemoryBank, name, params=bank_params(bank)),
            named(Agent, name, metadata=to_struct("m", values)),
        ]
    held = read(tmp_path, backup.write(resources))
    told = {(entry.kind.message, entry.name): entry for entry in held.entries}
    assert len(told) == len(resources)
    for resource in resources:
        entry = told[type(resource), resource.identifier]
        assert entry.payload == getattr(resource, entry.kind.payload)
        assert (entry.provider_id, entry.provider_name) == ("p", "theirs")


def test_models_come_before_the_banks_that_name_them(tmp_path):
    bank = named(MemoryBank, "b", params=bank_params({"graph": {}}))
    held = read(tmp_path, backup.write([bank, named(Model, "z"), named(Agent, "a")]))
    assert [str(entry) for entry in held.entries] == ["model z", "memory bank b", "agent a"]


def test_what_no_user_made_is_for_reading_only(tmp_path):
    declared = Model(identifier="c", source=SOURCE_CONFIG)
    found = Shield(identifier="d", source=SOURCE_DISCOVERED, provider_id="p")
    text = backup.write([declared, found, named(Model, "mine")])
    tree = yaml.safe_load(text)
    assert tree["not_restored"]["models"] == [{"model_id": "c", "source": "config"}]
    assert tree["not_restored"]["shields"] == [{"shield_id": "d", "source": "discovered", "provider_id": "p"}]
    held = read(tmp_path, text)
    assert [entry.name for entry in held.entries] == ["mine"]
    assert held.not_restored == 2


def test_a_section_can_be_pasted_into_a_mesh():
    metadata = to_struct("m", {"team": "search"})
    tree = yaml.safe_load(
        backup.write(
            [
                named(Model, "m", metadata=metadata),
                named(Shield, "s"),
                named(MemoryBank, "b", params=bank_params({"vector": {"embedding_model": "m"}})),
                named(Agent, "a"),
            ]
        )
    )
    provider = [{"provider_id": "p", "provider_type": "inline::echo"}]
    tree["providers"] = dict.fromkeys(("inference", "safety", "memory", "agents"), provider)
    config = parse(yaml.safe_dump(tree), {}, "the mesh")
    assert config.models[0].metadata == {"team": "search"}
    assert (config.shields[0].shield_id, config.memory_banks[0].memory_bank_id, config.agents[0].agent_id) == (
        "s",
        "b",
        "a",
    )


def test_a_thousand_rows_are_nothing(tmp_path):
    rows = [named(Model, f"m{i}", metadata=to_struct("m", {"i": i})) for i in range(1000)]
    held = read(tmp_path, backup.write(rows))
    assert from_struct(held.entries[999].payload) == {"i": 999}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must be a mapping that begins with `version: 1`"),
        ("- a\n", "must be a mapping"),
        ("a: [\n", ":2: not YAML"),
        ("version: 1\nversion: 1\n", ":2: not YAML: version is there twice"),
        ("models: []\n", "version: is required"),
        ("version: 2\n", ":1: version: must be 1"),
        ("version: 1\nproviders: {}\n", "backup.yaml: is the YAML of a mesh, not a backup"),
        ("version: 1\nmodls: []\n", ":2: modls: unknown key; did you mean `models`?"),
        ("version: 1\nmodels:\n- model_id: a\n- model_id: b c\n", ":4: models[1].model_id: may hold"),
        ("version: 1\nmodels:\n- provider_id: p\n", ":3: models[0].model_id: is required"),
        ("version: 1\nmodels:\n- model_id: a\n- model_id: a\n", ":4: models[1].model_id a is there twice"),
        ("version: 1\nmodels:\n- model_id: a\n  nme: b\n", ":4: models[0].nme: unknown key"),
        ("version: 1\nmodels:\n- model_id: a\n  metadata:\n    at: 2026-01-01\n", "at is a date, which cannot be kept"),
        (
            "version: 1\nmodels:\n- model_id: a\n  metadata: {n: 9007199254740993}\n",
            ":4: models[0].metadata.n is a num",
        ),
        ("version: 1\nmemory_banks:\n- memory_bank_id: a\n  params: {vectr: {}}\n", ":4: memory_banks[0].params are"),
        (
            "version: 1\nmodels:\n- model_id: a\n  metadata: {1: x}\n",
            ":4: models[0].metadata[1].[key]: must be text; write",
        ),
        ("version: 1\nmemory_banks:\n- memory_bank_id: a\n", ":3: memory_banks[0].params: is required"),
        (
            "version: 1\nmodels:\n- &a\n  model_id: a\n  metadata: *a\n",
            ":5: models[0].metadata is nested too deeply, or contains itself",
        ),
        ("version: 1\nmodels: " + "[" * 5000 + "\n", "version: 1"),
        ("version: 1\nmodels: 2026-99-99\n", "put text in quotes"),
    ],
)
def test_a_bad_file_is_told_with_its_line(tmp_path, text, said):
    if said == "version: 1":
        said = "backup.yaml"  # libyaml and PyYAML name the depth differently
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "backup.yaml") in str(caught.value)


def test_every_problem_is_told(tmp_path):
    models = "models:\n- model_id: a\n  metadata: {d: 2026-01-01}\n- model_id: a\n"
    text = f"version: 1\n{models}agents:\n- agent_id: b\n  metadata: {{n: .nan}}\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    lines = [line.rpartition("backup.yaml:")[2].partition(":")[0] for line in str(caught.value).splitlines()]
    assert lines == ["4", "5", "8"]


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "backup.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        backup.read(path)
