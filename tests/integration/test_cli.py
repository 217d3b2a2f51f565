"""Every command against a real mesh of four processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stackmesh.ports import free_port
from tests.fakes.terminal import Terminal
from tests.fakes.up import STACKMESH, Up, environment, running_up, stackmesh

PROVIDERS = """\
  - {provider_id: e, provider_type: "inline::echo", config: {models: [echo, spare]}}
  - {provider_id: s, provider_type: "inline::echo", config: {models: [slow], delay: 0.2}}
"""
WITH_A_TYPO = "{provider_id: b, provider_type: 'inline::echo', config: {model: [x]}}"

pytestmark = pytest.mark.xdist_group("cli")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    with running_up(tmp_path_factory.mktemp("mesh"), PROVIDERS, models=["echo", "slow"]) as up:
        up.wait_for("the mesh is up")
        limit = time.monotonic() + 10
        while '"SERVING_STATE_PENDING"' in run(up, "get", "models", "-o", "json").stdout:
            assert time.monotonic() < limit
        yield up


def run(mesh: Up, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return stackmesh(*arguments, said=said, STACKMESH_ADDRESS=mesh.gateway)


def refused(done: subprocess.CompletedProcess[str], *parts: str, code: int = 1) -> None:
    """One line that says what is wrong, no traceback, nothing on stdout."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
    if code == 1:
        assert done.stderr.startswith("error: ")


class TestChat:
    def test_answers_once(self, mesh):
        done = run(mesh, "chat", "--model", "echo", "say this")
        assert (done.returncode, done.stdout, done.stderr) == (0, "say this\n", "")

    def test_shows_the_answer_as_it_is_generated(self, mesh):
        command = (*STACKMESH, "chat", "-m", "slow", "-a", mesh.gateway, "one two three four five")
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
            assert os.read(process.stdout.fileno(), 4) == b"one "
            assert process.poll() is None
            assert process.stdout.read() == b"two three four five\n"

    def test_a_conversation_from_standard_input(self, mesh):
        done = run(mesh, "chat", "-m", "echo", said="hello there\n\nbye\n")
        assert (done.returncode, done.stdout) == (0, "hello there\nbye\n")

    def test_json_is_one_event_a_line(self, mesh):
        done = run(mesh, "chat", "-m", "echo", "--max-tokens", "1", "-o", "json", "a b")
        events = [json.loads(line) for line in done.stdout.splitlines()]
        kinds = [event["event_type"].removeprefix("CHAT_COMPLETION_EVENT_TYPE_") for event in events]
        assert kinds == ["START", "PROGRESS", "COMPLETE"]
        assert events[1]["text"] == "a "
        assert events[2]["stop_reason"] == "STOP_REASON_OUT_OF_TOKENS"
        assert events[2]["usage"] == {"prompt_tokens": "2", "completion_tokens": "1"}

    def test_which_model_is_asked_when_there_are_several(self, mesh):
        refused(run(mesh, "chat", "hi"), "choose one with --model: echo, slow")

    def test_an_unknown_model(self, mesh):
        refused(run(mesh, "chat", "-m", "ech", "hi"), "'ech'", "echo", "hint: ", "stackmesh get models")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("-m", "", "hi"), "model_id"),
            (("-m", "x" * 10_000, "hi"), "model_id"),
            (("-m", "echo", "--temperature", "nan", "hi"), "sampling_params.temperature"),
            (("-m", "echo", "--max-tokens", "-1", "hi"), "sampling_params.max_tokens"),
            (("-m", "echo", b"\xff".decode(errors="surrogateescape")), "UTF-8"),
        ],
    )
    def test_bad_requests(self, mesh, arguments, said):
        refused(run(mesh, "chat", *arguments), said)

    @pytest.mark.parametrize("option", [("--seed", "-1"), ("--max-tokens", "99999999999"), ("-o", "xml")])
    def test_bad_usage(self, mesh, option):
        refused(run(mesh, "chat", "-m", "echo", *option, "hi"), option[0].strip("-")[0], code=2)

    def test_ctrl_c_cancels_the_only_answer(self, mesh):
        command = (*STACKMESH, "chat", "-m", "slow", "-a", mesh.gateway, "word " * 100)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, env=environment(), **pipes) as process:
            assert os.read(process.stdout.fileno(), 5) == b"word "
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=10)
        assert process.returncode == 130
        assert errors == b""

    def test_a_person_cancels_an_answer_and_goes_on(self, mesh):
        with Terminal(*STACKMESH, "chat", "-m", "slow", "-a", mesh.gateway) as terminal:
            terminal.wait_for("> ")
            terminal.type("one " * 100 + "\n")
            terminal.wait_for("\none one ")
            terminal.type("\x03")
            terminal.wait_for("> ")
            terminal.type("still here\n")
            terminal.wait_for("still here\r\n> ")
            terminal.type("\x04")
            assert terminal.process.wait(10) == 0

    def test_what_a_model_says_does_not_steer_the_terminal(self, mesh):
        command = (*STACKMESH, "chat", "-m", "echo", "-a", mesh.gateway, "\x1b[31mred\x07 alert\n")
        with Terminal(*command) as terminal:
            seen = terminal.wait_for("alert")
        assert seen.strip() == "[31mred alert"
        assert run(mesh, *command[len(STACKMESH) :]).stdout == "\x1b[31mred\x07 alert\n\n"


class TestGet:
    @pytest.mark.parametrize(
        ("kind", "cells"),
        [
            ("models", ["MODEL", "echo", "slow", "serving", "config"]),
            ("providers", ["PROVIDER", "e", "s", "inference", "inline::echo", "127.0.0.1:"]),
            ("routes", ["NAME", "model", "echo", "127.0.0.1:"]),
        ],
    )
    def test_tables_without_a_terminal_are_plain(self, mesh, kind, cells):
        done = run(mesh, "get", kind)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        for cell in cells:
            assert cell in done.stdout

    def test_json_is_a_list_with_proto_names(self, mesh):
        models = json.loads(run(mesh, "get", "models", "-o", "json").stdout)
        assert [model["identifier"] for model in models] == ["echo", "slow"]
        assert models[0]["provider_resource_id"] == "echo"
        assert models[0]["serving_reason"] == ""
        providers = json.loads(run(mesh, "get", "providers", "-o", "json").stdout)
        assert [info["provider"]["provider_id"] for info in providers] == ["e", "s"]
        routes = json.loads(run(mesh, "get", "routes", "-o", "json").stdout)
        assert [route["provider_id"] for route in routes] == ["e", "s"]

    def test_an_unknown_kind_is_bad_usage(self, mesh):
        refused(run(mesh, "get", "shields"), "models", "providers", "routes", code=2)

    def test_a_mesh_that_is_not_up(self):
        done = stackmesh("get", "models", "--address", f"127.0.0.1:{free_port()}")
        refused(done, "no gateway answers at 127.0.0.1:", "hint: is the mesh up? start it with: stackmesh up")


class TestRegister:
    def test_a_name_can_be_called_at_once_and_taken_away(self, mesh):
        done = run(mesh, "register", "model", "mine", "--provider-model-id", "spare", "--metadata", "team=search")
        assert (done.returncode, done.stdout) == (0, "registered mine: e serves it as spare\n")
        assert run(mesh, "chat", "-m", "mine", "who are you?").stdout == "spare\n"
        again = run(mesh, "register", "model", "mine", "--provider-model-id", "spare", "--metadata", "team=search")
        assert again.returncode == 0
        refused(
            run(mesh, "register", "model", "mine", "--provider-model-id", "slow"), "mine", "stackmesh unregister model"
        )
        assert run(mesh, "unregister", "model", "mine").stdout == "unregistered mine\n"
        refused(run(mesh, "unregister", "model", "mine"), "mine", "stackmesh get models")

    def test_metadata_may_be_json(self, mesh):
        run(mesh, "register", "model", "spare", "--metadata-json", '{"limits": {"rpm": 5}}', "--metadata", "a=b")
        models = json.loads(run(mesh, "get", "models", "-o", "json").stdout)
        assert [m["metadata"] for m in models if m["identifier"] == "spare"] == [{"limits": {"rpm": 5}, "a": "b"}]
        assert run(mesh, "unregister", "model", "spare").returncode == 0

    def test_a_model_nobody_hosts(self, mesh):
        refused(run(mesh, "register", "model", "gpt-9"), "gpt-9", "stackmesh get providers")

    def test_an_unknown_provider(self, mesh):
        refused(run(mesh, "register", "model", "echo2", "--provider-id", "nobody"), "nobody")

    @pytest.mark.parametrize(
        "option", [("--metadata", "novalue"), ("--metadata-json", "{"), ("--metadata-json", "[1]")]
    )
    def test_bad_metadata_is_bad_usage(self, mesh, option):
        refused(run(mesh, "register", "model", "x", *option), option[0], code=2)


class TestCheck:
    def check(self, tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "mesh.yaml"
        path.write_text(text)
        return stackmesh("check", str(path))

    def test_a_good_file(self, mesh):
        done = stackmesh("check", str(mesh.config))
        assert (done.returncode, done.stdout) == (0, f"{mesh.config}: good: 2 providers, 2 models\n")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("version: 1\ngatewy: {}\n", "gatewy: unknown key; did you mean `gateway`?"),
            ("version: 1\n  x: [\n", "not YAML"),
            ("- a\n", "must be a mapping"),
            (
                "version: 1\nproviders: {inference: [{provider_id: a, provider_type: 'inline::nothing'}]}\n",
                "providers.inference[0].provider_type: unknown provider type inline::nothing",
            ),
            (
                f"version: 1\nproviders: {{inference: [{WITH_A_TYPO}]}}\n",
                "providers.inference[0].config.model: unknown key; did you mean `models`?",
            ),
        ],
    )
    def test_a_bad_file(self, tmp_path, text, said):
        refused(self.check(tmp_path, text), "mesh.yaml", said)

    def test_every_problem_is_told(self, tmp_path):
        providers = (
            "{provider_id: a, provider_type: 'inline::nothing'}",
            WITH_A_TYPO,
        )
        done = self.check(tmp_path, f"version: 1\nproviders: {{inference: [{', '.join(providers)}]}}\n")
        assert [line.count("error: ") for line in done.stderr.splitlines()] == [1, 1]

    def test_no_file(self, tmp_path):
        refused(stackmesh("check", str(tmp_path / "none.yaml")), "none.yaml", "No such file")


def test_version():
    assert stackmesh("version").stdout.startswith("stackmesh 0.")


def test_help_teaches_with_examples():
    assert "stackmesh chat 'What is a mesh?'" in stackmesh("chat", "--help").stdout
