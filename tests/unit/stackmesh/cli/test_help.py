"""Every command teaches by example, and knows the types that there are."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer.main

from stackmesh.cli.app import app
from stackmesh.cli.options import TYPES, BankKind, Listed, Watched
from stackmesh.registry.v1.resources_pb2 import MemoryBankParams
from stackmesh.resources import KINDS


def commands(group, *path):
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield (*path, name), command


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_has_an_example_that_can_be_run(path):
    command = EVERY[path]
    assert command.help
    assert f"`stackmesh {' '.join(path)}" in (command.epilog or "")


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_option_says_what_it_is_for(path):
    for parameter in EVERY[path].params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_the_examples_are_accepted(path):
    """As far as their words go: the options and arguments exist and have those values."""
    for example in EVERY[path].epilog.split("\n\n"):
        line = example.split("`")[1].partition(" | ")[0]
        words = shlex.split(line)
        assert words[: len(path) + 1] == ["stackmesh", *path]
        EVERY[path].make_context(" ".join(path), words[len(path) + 1 :], resilient_parsing=False)


def test_an_example_with_a_wrong_option_is_not_accepted():
    """The control."""
    with pytest.raises(Exception, match="No such option"):
        EVERY["get",].make_context("get", ["models", "--outptu", "json"])


def test_the_types_are_those_of_the_registry():
    assert {kind.word.replace("_", "-"): kind.payload for kind in KINDS.values()} == TYPES
    plurals = [kind.plural.replace("_", "-") for kind in KINDS.values()]
    assert [*plurals, "providers", "instances"] == list(Watched)
    assert [*plurals, "providers", "instances", "routes", "health"] == list(Listed)
    kinds = [field.name.replace("_", "-") for field in MemoryBankParams.DESCRIPTOR.fields]
    assert kinds == list(BankKind)


def test_help_does_not_wait_for_grpc():
    code = "import sys, stackmesh.cli.app; print(*sorted({'grpc', 'google.protobuf', 'yaml'} & set(sys.modules)))"
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
