"""What is told when a call fails, and what to do next."""

from __future__ import annotations

import pytest
import typer

from stackmesh import errors
from stackmesh.cli.failures import told


def said(capsys, error, address="h:1", kind="model", name="mine"):
    with pytest.raises(typer.Exit) as raised, told(address, kind, name):
        raise error
    assert raised.value.exit_code == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_a_gateway_that_knows_nothing_is_not_said_to_route(capsys):
    """The hint is the same whether it routes by what it knew or has never known anything."""
    hint = said(capsys, errors.RegistryUnreachable("the gateway has not reached the registry yet")).splitlines()[1]
    assert hint == "hint: see what the gateway goes on with: stackmesh get health; try again when it is back"


def test_a_time_limit_of_ours_is_told_in_words_and_the_meshs_own_as_it_is(capsys):
    assert said(capsys, errors.DeadlineExceeded("Deadline Exceeded")) == (
        "error: the gateway at h:1 did not answer in time\nhint: it may be stopped or overloaded; try again\n"
    )
    assert said(capsys, errors.Timeout("the backend took too long")) == "error: the backend took too long\n"


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("config", "hint: edit the mesh's YAML, and start the registry again"),
        ("user", "hint: change it with: stackmesh update memory-bank mine, or remove it with: stackmesh unregister"),
    ],
)
def test_a_name_that_is_taken_is_changed_where_it_comes_from(capsys, source, hint):
    taken = errors.ResourceExists("taken", metadata={"resource_type": "memory_bank", "source": source})
    assert hint in said(capsys, taken)


@pytest.mark.parametrize("error", [errors.NoInstance("nobody runs it"), errors.ProviderNotFound("there is none")])
def test_what_nothing_can_host_yet_is_said_to_be_so(capsys, error):
    assert said(capsys, error, kind="memory-bank").splitlines()[1] == (
        "hint: nothing in this version hosts memory providers yet; once one of your own runs, it can be registered"
    )
    assert "stackmesh get" in said(capsys, error, kind="model")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errors.Unavailable("failed to connect"), "no gateway answers at h:1\nhint: is the mesh up?"),
        (errors.Unavailable("DNS resolution failed for h:1"), "the name of the host does not resolve\nhint: --address"),
        (errors.Unimplemented("Method not found!"), "what answers at h:1 does not know this call: it is no gateway"),
        (errors.Unsupported("the model makes no vectors"), "error: the model makes no vectors\n"),
        (errors.Conflict("moved"), "hint: see what it is now with: stackmesh get models mine -o yaml"),
    ],
)
def test_what_is_wrong_with_the_way_to_the_gateway_is_no_fault_of_the_mesh(capsys, error, text):
    assert text in said(capsys, error)
