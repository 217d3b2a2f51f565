"""The examples run as the README says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.up import environment

ECHO = """\
version: 1
providers:
  inference:
  - {provider_id: e, provider_type: "inline::echo", config: {models: [echo]}}
models:
- model_id: echo
"""

pytestmark = pytest.mark.xdist_group("up")


def demo(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "mesh.yaml"
    path.write_text(text)
    command = (sys.executable, "-m", "examples.demo", str(path))
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=50, check=False
    )


def test_the_demo_streams_an_answer_and_says_what_it_cost(tmp_path):
    done = demo(tmp_path, ECHO)
    assert (done.returncode, done.stderr) == (0, "")
    for said in ("gateway ready", "a mesh of services?", "tokens/s", "time to first token: ", "the gateway added: "):
        assert said in done.stdout
    assert done.stdout.splitlines()[-1].endswith("registry stopped")


def test_a_demo_that_fails_says_why(tmp_path):
    done = demo(tmp_path, ECHO.replace("inline::echo", "inline::nothing"))
    assert done.returncode == 1
    assert done.stderr.startswith("the demo failed: inference: providers.inference[0].provider_type: unknown")
