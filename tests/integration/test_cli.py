"""Every command against a real mesh of four processes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.fakes.other_apis import hosted
from tests.fakes.terminal import Terminal
from tests.fakes.up import STACKMESH, Up, environment, running_up, stackmesh
from tests.ports import free_port

PROVIDERS = """\
  - {provider_id: e, provider_type: "inline::echo", config: {models: [echo, spare], loadable: [later]}}
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


@pytest.fixture(scope="module")
def others(mesh):
    """An instance that hosts a provider of each of the other APIs."""
    with hosted(mesh.registry):
        yield


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
        refused(run(mesh, "get", "datasets"), "models", "providers", "routes", code=2)

    def test_one_by_its_name(self, mesh):
        (line,) = run(mesh, "get", "models", "echo").stdout.splitlines()[1:]
        assert line.split()[:2] == ["echo", "serving"]
        assert yaml.safe_load(run(mesh, "get", "models", "echo", "-o", "yaml").stdout)["provider_id"] == "e"
        assert json.loads(run(mesh, "get", "routes", "model/slow", "-o", "json").stdout)["provider_id"] == "s"
        provider = json.loads(run(mesh, "get", "providers", "inference/e", "-o", "json").stdout)
        (host,) = provider["instances"]
        assert run(mesh, "get", "instances", host["instance_id"]).stdout.splitlines()[1].split()[1] == host["address"]

    @pytest.mark.parametrize("kind", ["memory-banks", "providers", "instances", "routes"])
    def test_one_that_is_not_there(self, mesh, kind):
        refused(run(mesh, "get", kind, "no-such-thing"), "no-such-thing")

    @pytest.mark.parametrize("kind", ["shields", "memory-banks", "agents", "instances"])
    def test_every_kind_in_every_form(self, mesh, others, kind):
        listed = json.loads(run(mesh, "get", kind, "-o", "json").stdout)
        assert isinstance(listed, list)
        assert yaml.safe_load(run(mesh, "get", kind, "-o", "yaml").stdout) == listed
        assert len(run(mesh, "get", kind).stdout.splitlines()) == 1 + len(listed)

    def test_colours_are_for_terminals(self, mesh):
        command = (*STACKMESH, "get", "models", "-a", mesh.gateway)
        with Terminal(*command) as terminal:
            assert "\x1b[32mserving" in terminal.wait_for("slow")

    def test_a_gateway_that_is_frozen(self, mesh):
        (gateway,) = mesh.pids("gateway")
        os.kill(gateway, signal.SIGSTOP)
        try:
            done = run(mesh, "get", "models")
        finally:
            os.kill(gateway, signal.SIGCONT)
        refused(done, f"error: the gateway at {mesh.gateway} did not answer in time\nhint: ")

    def test_something_that_is_no_gateway(self, mesh):
        done = stackmesh("get", "routes", "--address", mesh.registry)
        refused(done, f"what answers at {mesh.registry} does not know this call", "hint: --address")

    @pytest.mark.parametrize("address", ["nowhere", ":1", "h:0", "h:65536", "http://h:1", "h:x"])
    def test_what_is_no_address(self, address):
        refused(stackmesh("get", "models", "--address", address), "HOST:PORT", code=2)

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


PAYLOADS = {
    "shield": ("--params", "level=high"),
    "memory-bank": ("--kind", "key-value"),
    "agent": ("--metadata", "team=search"),
}
EVERY_OTHER = pytest.mark.parametrize(
    ("kind", "provider"), [("shield", "guard"), ("memory-bank", "kv"), ("agent", "runner")]
)


class TestEveryType:
    @EVERY_OTHER
    def test_from_beginning_to_end(self, mesh, others, kind, provider):
        done = run(mesh, "register", kind, "mine", *PAYLOADS[kind])
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            f"registered mine: {provider} serves it as theirs\n",
            "",
        )
        one = yaml.safe_load(run(mesh, "get", f"{kind}s", "mine", "-o", "yaml").stdout)
        assert one["serving_state"] == "SERVING_STATE_SERVING"
        moved = run(mesh, "update", kind, "mine", f"--provider-{kind}-id", "second")
        assert (moved.returncode, moved.stdout) == (0, f"updated mine: {provider} serves it as second\n")
        again = json.loads(run(mesh, "get", f"{kind}s", "mine", "-o", "json").stdout)
        payload = "metadata" if kind == "agent" else "params"
        assert (again[payload], again["created_at"]) == (one[payload], one["created_at"])
        stale = ("--expected-revision", one["revision"])
        refused(
            run(mesh, "update", kind, "mine", "--provider-id", provider, *stale), "hint: ", f"stackmesh get {kind}s"
        )
        refused(run(mesh, "unregister", kind, "mine", *stale), "mine")
        refused(run(mesh, "register", kind, "mine", f"--provider-{kind}-id", "theirs", *PAYLOADS[kind]), "update")
        gone = run(mesh, "unregister", kind, "mine", "--expected-revision", again["revision"])
        assert (gone.returncode, gone.stdout) == (0, "unregistered mine\n")

    def test_a_vector_bank(self, mesh, others):
        vector = ("--kind", "vector", "--embedding-model", "echo", "--chunk-size", "512")
        assert run(mesh, "register", "memory-bank", "second", *vector).returncode == 0
        bank = json.loads(run(mesh, "get", "memory-banks", "second", "-o", "json").stdout)
        assert bank["params"]["vector"]["chunk_size_in_tokens"] == 512
        assert run(mesh, "get", "memory-banks", "second").stdout.splitlines()[1].split()[2] == "vector"
        assert run(mesh, "unregister", "memory-bank", "second").returncode == 0
        wrong = ("--kind", "vector", "--embedding-model", "eco", "--chunk-size", "512")
        refused(run(mesh, "register", "memory-bank", "second", *wrong), "error: --embedding-model eco", "echo")

    def test_a_model_that_banks_rely_on_is_not_taken_away_silently(self, mesh, others):
        run(mesh, "register", "model", "embedder", "--provider-model-id", "spare")
        vector = ("--kind", "vector", "--embedding-model", "embedder", "--chunk-size", "512")
        assert run(mesh, "register", "memory-bank", "second", *vector).returncode == 0
        done = run(mesh, "unregister", "model", "embedder")
        assert (done.returncode, done.stdout) == (0, "unregistered embedder\n")
        assert done.stderr == "note: memory banks embed with embedder and cannot do so without it: second\n"
        assert run(mesh, "unregister", "memory-bank", "second").stderr == ""

    def test_single_parameters_of_a_bank_are_changed(self, mesh, others):
        vector = ("--kind", "vector", "--embedding-model", "echo", "--chunk-size", "512", "--overlap", "100")
        assert run(mesh, "register", "memory-bank", "second", *vector).returncode == 0

        def change(*options: str) -> dict[str, object]:
            done = run(mesh, "update", "memory-bank", "second", *options)
            assert done.returncode == 0, done.stderr
            return json.loads(run(mesh, "get", "memory-banks", "second", "-o", "json").stdout)["params"]

        said = {"embedding_model": "echo", "chunk_size_in_tokens": 256, "overlap_size_in_tokens": 100}
        assert change("--chunk-size", "256") == {"vector": said}
        assert change("--kind", "vector", "--overlap", "0") == {"vector": said | {"overlap_size_in_tokens": 0}}
        refused(run(mesh, "update", "memory-bank", "second", "--overlap", "256"), "error: --overlap is 256, must be")
        assert change("--kind", "graph") == {"graph": {}}
        refused(run(mesh, "update", "memory-bank", "second", "--overlap", "5"), "error: --overlap is for vector banks")
        assert run(mesh, "unregister", "memory-bank", "second").returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("register", "memory-bank", "x"), "--kind"),
            (("register", "memory-bank", "x", "--kind", "graph", "--chunk-size", "5"), "--kind vector"),
            (("register", "memory-bank", "x", "--kind", "vector", "--overlap", "5"), "--chunk-size"),
            (("update", "memory-bank", "x"), "nothing to change"),
            (("update", "memory-bank", "x", "--chunk-size", str(2**31)), "--chunk-size"),
            (("update", "agent", "x", "--metadata", "a=b", "--expected-revision", "9" * 20), "--expected-revision"),
            (("unregister", "model", "x", "--expected-revision", str(2**63)), "--expected-revision"),
            (("watch", "--start-revision", "9" * 22), "--start-revision"),
            (("update", "model", "echo"), "nothing to change"),
            (("update", "model", "echo", "--provider-id", "s", "--expected-revision", "0"), "--expected-revision"),
            (("register", "dataset", "x"), "dataset"),
        ],
    )
    def test_bad_usage(self, mesh, arguments, said):
        refused(run(mesh, *arguments), said, code=2)

    def test_what_the_yaml_declares_is_changed_there(self, mesh):
        hint = "hint: edit the mesh's YAML"
        refused(run(mesh, "update", "model", "echo", "--metadata", "a=b"), "change it there", hint)
        refused(run(mesh, "unregister", "model", "echo"), "remove it from the YAML", hint)
        taken = run(mesh, "register", "model", "echo", "--metadata", "a=b")
        refused(taken, "already registered", hint)
        assert "stackmesh update" not in taken.stderr


class Watching:
    """`stackmesh watch` in a process of its own."""

    def __init__(self, mesh: Up, *arguments: str) -> None:
        command = (*STACKMESH, "watch", *arguments, "-a", mesh.gateway)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment(), text=True, **pipes)

    def line(self) -> str:
        return self.process.stdout.readline()

    def until(self, text: str) -> str:
        while text not in (line := self.line()):
            assert line, self.process.stderr.read()
        return line

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class TestWatch:
    def test_what_there_is_then_what_changes_until_ctrl_c(self, mesh):
        with Watching(mesh, "models") as watch:
            assert watch.line().split()[1:] == ["+", "model", "echo", "e", "as", "echo"]
            assert watch.line().split()[1:] == ["+", "model", "slow", "s", "as", "slow"]
            run(mesh, "register", "model", "mine", "--provider-model-id", "spare")
            assert watch.line().split()[1:] == ["+", "model", "mine", "e", "as", "spare"]
            run(mesh, "update", "model", "mine", "--provider-model-id", "echo")
            assert watch.line().split()[1:] == ["~", "model", "mine", "e", "as", "echo"]
            run(mesh, "update", "model", "mine", "--metadata", "team=chat")
            assert watch.line().split()[1:] == ["~", "model", "mine", "e", "as", "echo", "(metadata)"]
            run(mesh, "unregister", "model", "mine")
            assert watch.line().split()[1:] == ["-", "model", "mine", "e", "as", "echo"]
            watch.process.send_signal(signal.SIGINT)
            assert watch.process.communicate(timeout=10) == ("", "")
            assert watch.process.returncode == 0

    @EVERY_OTHER
    def test_one_kind_and_nothing_else(self, mesh, others, kind, provider):
        with Watching(mesh, f"{kind}s") as watch:
            run(mesh, "register", kind, "mine", *PAYLOADS[kind])
            what = [*kind.split("-"), "mine", provider, "as"]
            assert watch.until(" mine ").split()[1:] == ["+", *what, "theirs"]
            run(mesh, "register", "model", "not-asked-for", "--provider-model-id", "spare")
            run(mesh, "unregister", "model", "not-asked-for")
            run(mesh, "update", kind, "mine", f"--provider-{kind}-id", "second")
            assert watch.line().split()[1:] == ["~", *what, "second"]
            run(mesh, "unregister", kind, "mine")
            assert watch.line().split()[1:] == ["-", *what, "second"]

    def test_providers(self, mesh):
        with Watching(mesh, "providers") as watch:
            about = ["provider", "inference/e", "inline::echo,", "serves"]
            assert watch.until("inference/e").split()[1:] == ["+", *about, "2"]
            assert watch.until("inference/s").split()[1] == "+"
            run(mesh, "register", "model", "mine", "--provider-model-id", "later")
            assert watch.until("inference/e").split()[1:] == ["~", *about, "3"]
            run(mesh, "unregister", "model", "mine")
            assert watch.until("inference/e").split()[1:] == ["~", *about, "2"]

    def test_instances(self, mesh):
        with Watching(mesh, "instances") as watch:
            assert watch.until(" inference-").split()[1:3] == ["+", "instance"]
            with hosted(mesh.registry) as name:
                sign, *what, address = watch.until(name).split()[1:]
                assert (sign, what) == ("+", ["instance", name])
                assert address.startswith("127.0.0.1:")
            assert watch.until(name).split()[1:] == ["-", *what, address]

    def test_everything(self, mesh, others):
        run(mesh, "register", "shield", "mine", *PAYLOADS["shield"])
        with Watching(mesh) as watch:
            for what in (
                "instance inference-",
                "model echo",
                "provider inference/e",
                "provider safety/guard",
                "shield mine",
            ):
                assert watch.until(what).split()[1] == "+"
            run(mesh, "register", "model", "mine", "--provider-model-id", "spare")
            assert watch.until("mine").split()[1:4] == ["+", "model", "mine"]
            run(mesh, "unregister", "shield", "mine")
            assert watch.until("mine").split()[1:4] == ["-", "shield", "mine"]
        run(mesh, "unregister", "model", "mine")

    def test_json_is_an_object_a_line_and_says_where_to_go_on(self, mesh):
        with Watching(mesh, "models", "-o", "json") as watch:
            watch.until('"slow"')
            run(mesh, "register", "model", "mine", "--provider-model-id", "spare")
            told = json.loads(watch.line())
        assert (told["change"], told["kind"], told["name"], told["initial"]) == ("added", "model", "mine", False)
        assert told["record"]["provider_resource_id"] == "spare"
        assert "serving_state" not in told["record"]
        run(mesh, "unregister", "model", "mine")
        with Watching(mesh, "models", "-o", "json", "--start-revision", str(told["revision"])) as watch:
            again = [json.loads(watch.line()) for _ in range(2)]
        assert [(change["change"], change["name"]) for change in again] == [("added", "mine"), ("removed", "mine")]

    def test_only_changes(self, mesh):
        with Watching(mesh, "models", "--only-changes", "-o", "json") as watch:
            limit = time.monotonic() + 40
            while not select.select([watch.process.stdout], [], [], 0)[0]:  # what comes before its list is not told
                run(mesh, "register", "model", "mine", "--provider-model-id", "spare")
                run(mesh, "unregister", "model", "mine")
                assert time.monotonic() < limit
            told = json.loads(watch.line())
        assert (told["name"], told["initial"]) == ("mine", False)

    def test_a_gateway_that_dies_is_waited_for(self, mesh):
        with Watching(mesh, "models") as watch:
            watch.until("slow")
            (gateway,) = mesh.pids("gateway")
            os.kill(gateway, signal.SIGKILL)
            limit = time.monotonic() + 30
            while run(mesh, "register", "model", "mine", "--provider-model-id", "spare").returncode:
                assert time.monotonic() < limit
            assert "+ model mine" in watch.line()
            run(mesh, "unregister", "model", "mine")
            assert "- model mine" in watch.line()
            watch.process.send_signal(signal.SIGINT)
            _, errors = watch.process.communicate(timeout=10)
        assert watch.process.returncode == 0
        assert "Traceback" not in errors
        assert "note: lost the mesh: " in errors

    def test_a_mesh_that_is_not_up(self):
        done = stackmesh("watch", "--address", f"127.0.0.1:{free_port()}")
        refused(done, "no gateway answers at 127.0.0.1:", "hint: is the mesh up? start it with: stackmesh up")

    def test_a_revision_that_is_not_there_yet(self, mesh):
        done = run(mesh, "watch", "--start-revision", "999999999")
        refused(done, "there is no revision 999999999 yet", "hint: begin with what there is now")

    def test_a_reader_that_has_seen_enough(self, mesh):
        with Watching(mesh) as watch:
            watch.line()
            watch.process.stdout.close()
            run(mesh, "register", "model", "mine", "--provider-model-id", "spare")
            run(mesh, "unregister", "model", "mine")
            assert watch.process.wait(10) == 1
            assert "Traceback" not in watch.process.stderr.read()
            watch.process.stdout = None


ODD = (
    ("register", "model", "a:b/c@d", "--provider-model-id", "spare"),
    (
        "register",
        "model",
        "mine",
        "--provider-model-id",
        "spare",
        "--metadata-json",
        '{"ü🙂": [1e300, 9007199254740992]}',
    ),
    ("register", "shield", "mine", "--params-json", '{"deep": {"a": [null, true, 0.5]}}'),
    ("register", "memory-bank", "mine", "--kind", "vector", "--embedding-model", "a:b/c@d", "--chunk-size", "9"),
    ("register", "memory-bank", "second", "--kind", "graph"),
    ("register", "agent", "mine", "--metadata", "yes=1e3"),
)


@pytest.fixture
def odd(mesh, others):
    """Registrations of every type with odd contents."""
    for arguments in ODD:
        assert run(mesh, *arguments).returncode == 0
    yield
    take_away(mesh)


def take_away(mesh: Up) -> None:
    for _, kind, name, *_ in ODD:
        run(mesh, "unregister", kind, name)


def revisions(mesh: Up) -> list[str]:
    return [model["revision"] for model in json.loads(run(mesh, "get", "models", "-o", "json").stdout)]


class TestBackup:
    @pytest.mark.timeout(180)  # thirty commands, each a process
    def test_it_brings_everything_back(self, mesh, odd, tmp_path):
        path = tmp_path / "backup.yaml"
        done = run(mesh, "registry", "export", str(path))
        assert (done.returncode, done.stdout) == (0, "")
        assert "6 registrations at revision" in done.stderr
        saved, before = path.read_text(), revisions(mesh)
        for option in ((), ("--replace",), ("--dry-run",)):
            assert run(mesh, "registry", "import", *option, str(path)).stdout.splitlines()[-1] == "6 unchanged"
        assert run(mesh, "registry", "export", "-").stdout.splitlines()[1:] == saved.splitlines()[1:]
        assert revisions(mesh) == before
        take_away(mesh)
        foreseen = run(mesh, "registry", "import", "--dry-run", str(path))
        assert foreseen.stdout.splitlines()[-1] == "6 would be created"
        assert yaml.safe_load(run(mesh, "registry", "export").stdout).keys() == {"version", "not_restored"}
        done = run(mesh, "registry", "import", str(path))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "created model a:b/c@d",
            "created model mine",
            "created shield mine",
            "created memory bank mine",
            "created memory bank second",
            "created agent mine",
            "skipped 2 of not_restored: the mesh's YAML and discovery make these",
            "6 created",
        ]
        assert run(mesh, "registry", "export").stdout.splitlines()[1:] == saved.splitlines()[1:]

    def test_every_entry_is_told_and_a_failure_is_code_1(self, mesh, tmp_path):
        run(mesh, *ODD[1])
        path = tmp_path / "backup.yaml"
        path.write_text(
            "version: 1\nmodels:\n"
            "- {model_id: mine, provider_id: e, provider_model_id: echo}\n"
            "- {model_id: nobodys}\n"
            "- {model_id: spare}\n"
        )
        done = run(mesh, "registry", "import", str(path))
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        assert lines[0].startswith("differs model mine: provider_model_id is spare, in the file echo; metadata is")
        assert lines[1].startswith("failed model nobodys: ")
        assert lines[2:] == ["created model spare", "1 differs, 1 failed, 1 created"]
        assert done.stderr == "hint: make them as in the file with --replace\n"
        replaced = run(mesh, "registry", "import", "--replace", str(path))
        assert replaced.stdout.splitlines()[0].startswith("replaced model mine: ")
        assert run(mesh, "chat", "-m", "mine", "said").stdout == "said\n"
        run(mesh, "unregister", "model", "spare")
        run(mesh, "unregister", "model", "mine")

    def test_what_the_yaml_declares_is_not_said_to_be_replaceable(self, mesh):
        text = "version: 1\nmodels:\n- {model_id: echo, metadata: {a: b}}\n"
        done = run(mesh, "registry", "import", "-", said=text)
        assert (done.returncode, done.stdout.splitlines()[1]) == (1, "1 differs")
        assert done.stderr == "hint: what the mesh's YAML declares is changed there\n"

    def test_a_long_import_shows_how_far_it_is(self, mesh, tmp_path):
        path = tmp_path / "backup.yaml"
        names = [f"many-{number}" for number in range(60)]
        path.write_text(
            "version: 1\nmodels:\n" + "".join(f"- {{model_id: {n}, provider_model_id: spare}}\n" for n in names)
        )
        with Terminal(*STACKMESH, "registry", "import", "-a", mesh.gateway, str(path)) as terminal:
            assert "/60" in terminal.wait_for("60 created")
        for name in names[:3]:
            assert run(mesh, "unregister", "model", name).returncode == 0

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("version: 1\nmodels:\n- model_id: a b\n", "backup.yaml:3: models[0].model_id: may hold"),
            ("version: 1\n  x: [\n", "not YAML"),
        ],
    )
    def test_a_bad_file(self, mesh, tmp_path, text, said):
        path = tmp_path / "backup.yaml"
        path.write_text(text)
        refused(run(mesh, "registry", "import", str(path)), said)

    def test_no_file(self, mesh, tmp_path):
        refused(run(mesh, "registry", "import", str(tmp_path / "none.yaml")), "none.yaml", "No such file")
        missing = tmp_path / "none" / "b.yaml"
        refused(run(mesh, "registry", "export", str(missing)), f"error: {missing}: No such file")

    def test_through_pipes(self, mesh, odd, tmp_path):
        saved = run(mesh, "registry", "export", "-").stdout
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        end = os.open(pipe, os.O_RDWR)  # as long as it is open nobody waits for anybody
        try:
            assert run(mesh, "registry", "export", str(pipe)).returncode == 0
            assert pipe.is_fifo()
            assert os.read(end, 65536).decode().splitlines()[1:] == saved.splitlines()[1:]
        finally:
            os.close(end)
        done = run(mesh, "registry", "import", "-", said=saved)
        assert (done.returncode, done.stdout.splitlines()[-1].split()[1:]) == (0, ["unchanged"])
        refused(run(mesh, "registry", "import", "-", said="version: 2\n"), "standard input:1: version: ")

    def test_a_mesh_that_is_not_up(self, tmp_path):
        path = tmp_path / "backup.yaml"
        path.write_text("version: 1\n")
        for arguments in (("export", str(path)), ("import", str(path))):
            done = stackmesh("registry", *arguments, "--address", f"127.0.0.1:{free_port()}")
            refused(done, "no gateway answers at 127.0.0.1:", "stackmesh up")
        assert path.read_text() == "version: 1\n"


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
                "version: 1\nregistry: {store: 'sqlite:///:memory:'}\n",
                "would forget everything when it is closed; write sqlite:///PATH",
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

    def test_what_the_registry_would_refuse_and_what_nothing_hosts(self, tmp_path):
        safety = "version: 1\nproviders: {safety: [{provider_id: g, provider_type: 'inline::llama-guard'}]}\n"
        done = self.check(tmp_path, safety + "shields: [{shield_id: guard}]\n")
        assert done.returncode == 0
        assert "mesh.yaml: providers.safety: nothing in this version hosts safety providers yet; " in done.stdout
        assert "mesh.yaml: good: 1 provider, 1 shield\n" in done.stdout
        refused(
            self.check(tmp_path, safety + "shields: [{shield_id: stackmesh/guard}]\n"),
            "mesh.yaml",
            "shields[0].shield_id begins with stackmesh/, which is kept for the mesh itself",
        )

    def test_no_file(self, tmp_path):
        refused(stackmesh("check", str(tmp_path / "none.yaml")), "none.yaml", "No such file")


def test_version():
    assert stackmesh("version").stdout.startswith("stackmesh 0.")
    assert stackmesh("--version").stdout == stackmesh("version").stdout


def test_help_teaches_with_examples():
    assert "stackmesh chat 'What is a mesh?'" in stackmesh("chat", "--help").stdout
