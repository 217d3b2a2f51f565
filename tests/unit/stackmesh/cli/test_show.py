"""What programs read, whatever the registry holds."""

from __future__ import annotations

import json

import pytest
import yaml

from stackmesh.cli.show import as_json, as_yaml, inert, plain
from stackmesh.registry.v1.resources_pb2 import KeyValueParams, MemoryBank, MemoryBankParams, Model


def model(**metadata) -> Model:
    made = Model(identifier="mine", revision=7)
    made.metadata.update(metadata)
    return made


def test_every_field_is_there_under_its_own_name():
    shown = json.loads(as_json(plain(Model(identifier="mine", revision=7))))
    assert shown["identifier"] == "mine"
    assert shown["revision"] == "7"  # as protobuf writes 64-bit numbers
    assert shown["metadata"] == {}
    assert shown["serving_state"] == "SERVING_STATE_UNSPECIFIED"


def test_whole_numbers_are_whole_and_big_ones_are_themselves():
    assert as_json(plain(model(n=5, big=1e300, half=0.5))["metadata"], indent=None) == (
        '{"big": 1e+300, "half": 0.5, "n": 5}'
    )


def test_what_json_has_no_number_for_is_text():
    shown = json.loads(as_json(plain(model(a=float("nan"), b=[float("-inf")], c={"d": float("inf")}))))
    assert shown["metadata"] == {"a": "NaN", "b": ["-Infinity"], "c": {"d": "Infinity"}}


def test_a_kind_without_parameters_is_told():
    bank = MemoryBank(identifier="b", params=MemoryBankParams(key_value=KeyValueParams()))
    assert plain(bank)["params"] == {"key_value": {}}


@pytest.mark.parametrize("text", ["ünïcode 🙂", "yes", "1e3", "a: b", "\x1b[31m", "line\nline", "", " ", "=", "<<"])
def test_yaml_is_read_as_it_was_written(text):
    assert yaml.safe_load(as_yaml({text: [text, {"k": text}]})) == {text: [text, {"k": text}]}


def test_what_others_say_does_not_steer_the_terminal():
    assert inert("\x1b[31mred\x07\x9b\n") == "[31mred\n"
