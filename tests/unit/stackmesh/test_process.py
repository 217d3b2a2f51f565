"""Every process starts, says how far it is, and ends the same way."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from stackmesh import ports
from stackmesh.process import EX_CONFIG

PROGRAM = """
    import sys
    from stackmesh.process import StartError, run
    async def body(config, process):
        process.notify.status("waking up")
        if not config.models:
            raise StartError("no room")
        process.notify.ready("here")
        await process.stopping.wait()
    sys.exit(run("program", "Does nothing, well.", body))
"""
BROKEN = """
    import sys
    from stackmesh.process import run
    from stackmesh.tasks import background
    async def count():
        raise RuntimeError("no sheep")
    async def body(config, process):
        async with background(count(), "count sheep"):
            await process.stopping.wait()
        sys.stderr.write("stopped in good order\\n")
    sys.exit(run("program", "Cannot sleep.", body))
"""


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(20)
        yield sock


def start(tmp_path, *arguments, stdin=subprocess.DEVNULL, source=PROGRAM, under=()):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(source))
    environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify"), "PYTHONPATH": str(Path.cwd())}
    command = [*under, sys.executable, str(program), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdin=stdin, text=True)


def test_tells_how_far_it_is_and_stops_when_asked(tmp_path, listener):
    with start(tmp_path) as process:
        assert listener.recv(1000) == b"STATUS=waking up"
        assert listener.recv(1000) == b"READY=1\nSTATUS=here"
        process.send_signal(signal.SIGTERM)
        assert listener.recv(1000) == b"STOPPING=1\nSTATUS=stopping"
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def test_stops_when_its_background_work_has_failed(tmp_path, listener):
    with start(tmp_path, source=BROKEN) as process:
        assert listener.recv(1000) == b"STOPPING=1\nSTATUS=count sheep: failed, the log says why"
        assert process.wait(20) == 1
        *_, traceback, order, why = process.stderr.read().splitlines()
    assert traceback == "RuntimeError: no sheep"
    assert order == "stopped in good order"
    assert why == "program: count sheep: failed, the log says why"


def test_ends_when_the_holder_of_its_input_is_gone(tmp_path, listener):
    with start(tmp_path, "--end-with-stdin", stdin=subprocess.PIPE) as process:
        assert listener.recv(1000) == b"STATUS=waking up"
        assert listener.recv(1000) == b"READY=1\nSTATUS=here"
        process.stdin.close()
        assert listener.recv(1000) == b"STOPPING=1\nSTATUS=stopping"
        assert process.wait(20) == 0


def test_goes_on_without_input_unless_told(tmp_path, listener):
    with start(tmp_path) as process:  # its input has ended before it began
        assert listener.recv(1000) == b"STATUS=waking up"
        assert listener.recv(1000) == b"READY=1\nSTATUS=here"
        listener.settimeout(0.3)
        with pytest.raises(TimeoutError):
            listener.recv(1000)
        process.terminate()
        assert process.wait(20) == 0


def test_what_has_to_be_changed_first_is_said_without_a_traceback(tmp_path):
    config = tmp_path / "mesh.yaml"
    config.write_text("version: 1")
    with start(tmp_path, "--config", str(config)) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == EX_CONFIG
    assert said == "program: no room\n"


def test_a_bad_configuration_is_said_without_a_traceback(tmp_path):
    config = tmp_path / "mesh.yaml"
    config.write_text("version: 1\ngatewy: {}\n")
    with start(tmp_path, "--config", str(config)) as process:
        _, said = process.communicate(timeout=20)
    assert process.returncode == EX_CONFIG
    assert said == f"program: {config}: gatewy: unknown key; did you mean `gateway`?\n"


def test_check_does_not_start_it(tmp_path):
    with start(tmp_path, "--check") as process:
        assert process.wait(20) == 0


FEW_FILES = ("sh", "-c", 'ulimit -S -n 256 && ulimit -H -n 4096 && exec "$@"', "few-files")
CONTENT = """
    from stackmesh import process
    process._raise_file_limit = lambda: None
"""
"""What makes a program go by the limit it was started with."""


def file_limits(tmp_path, listener, source):
    """The limits, soft and hard, of a process that was started with 256 and 4096."""
    with start(tmp_path, source=source, under=FEW_FILES) as process:
        while b"READY=1" not in listener.recv(1000):
            pass
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        process.terminate()
        assert process.wait(20) == 0
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    return [int(word) for word in line.split()[3:5]]


def test_it_may_open_as_many_files_as_its_hard_limit_allows(tmp_path, listener):
    assert file_limits(tmp_path, listener, PROGRAM) == [4096, 4096]


def test_that_check_finds_a_process_that_is_content_with_its_soft_limit(tmp_path, listener):
    assert file_limits(tmp_path, listener, CONTENT + PROGRAM) == [256, 4096]


def test_the_holder_of_a_port_is_named():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        holder = ports.holder(port)
    assert holder is not None
    assert holder.endswith(f"(pid {os.getpid()})")
    assert ports.holder(port) is None
