"""The benchmarks in a short form. What they print is checked; how fast anything is, is not."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest

from benchmarks import adapter, gateway, model, openai_backend, registry, requests
from benchmarks.load import delays_ms
from benchmarks.processes import BenchmarkError, running
from benchmarks.run import BENCHMARKS
from services.inference import chunks
from services.inference.providers.vllm import VLLM, VLLMConfig

ROOT = Path(__file__).parents[2]

PROMISED = {
    "gateway": ("python.call_ratio", "python.chunk_ratio", "null.call_ratio", "ttft_added_ms_p50", "unstable"),
    "model": ("tokens_per_s_ratio", "cancel_ms_p99", "up_to_first_token_s"),
    "registry": (
        "routable_ms_p99.1000",
        "routable_ms_p99.10000",
        "call_ratio_10000_over_10",
        "gateway_rss_mb.10000",
    ),
    "adapter": (
        "service.us_per_token",
        "service.us_per_call",
        "paced.tokens",
        "paced.messages",
        "token_delay_ms_p50",
        "unstable",
    ),
}
MAY_BE_NEGATIVE = {"ttft_added_ms_p50", "cancel_ms_p99", "cancel_prompt_ms_p50", "cancel_decode_ms_p50"}
"""Differences: on a busy machine a short run may measure less than nothing."""


def bench(*arguments: str, seconds: int = 50) -> subprocess.CompletedProcess[str]:
    # `timeout` asks it to stop, so that it stops what it started; killed, it could not.
    command = ["timeout", str(seconds), sys.executable, "-m", "benchmarks.run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_result(stdout: str, keys: Mapping[str, str]) -> dict[str, float]:
    """One line, a flat JSON object with exactly these keys and sensible numbers."""
    lines = stdout.splitlines()
    assert len(lines) == 1
    result = json.loads(lines[0])
    assert list(result) == list(keys)
    for key, value in result.items():
        assert isinstance(value, bool | int | float), key
        assert math.isfinite(value), key
        assert isinstance(value, bool) or value > 0 or key in MAY_BE_NEGATIVE, key
    return result


def test_gateway_benchmark_prints_one_object():
    run = bench("gateway", "--json", "--rounds", "1", "--seconds", "0.3", "--samples", "5")
    assert run.returncode == 0, run.stderr
    result = check_result(run.stdout, gateway.KEYS)
    assert set(PROMISED["gateway"]) <= set(result)
    assert result["rounds"] == 1
    assert "round 1 of 1" in run.stderr


def test_model_benchmark_prints_one_object():
    run = bench("model", "--json", "--rounds", "1", "--samples", "2", "--tokens", "16")
    assert run.returncode == 0, run.stderr
    result = check_result(run.stdout, model.KEYS)
    assert set(PROMISED["model"]) <= set(result)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["sqlite", "etcd"])
def test_registry_benchmark_prints_one_object(store: str):
    options = ("--store", store, "--rounds", "1", "--seconds", "0.1", "--samples", "3")
    run = bench("registry", "--json", *options, seconds=160)
    assert run.returncode == 0, run.stderr
    result = check_result(run.stdout, registry.KEYS)
    assert set(PROMISED["registry"]) <= set(result)
    assert result["gateway_sockets.10000"] > 1000
    assert result["gateway_rss_mb.10000"] < 150


def test_adapter_benchmark_prints_one_object():
    run = bench("adapter", "--json", "--rounds", "1", "--seconds", "0.3", "--tokens", "10")
    assert run.returncode == 0, run.stderr
    of_litellm = {key for key in adapter.KEYS if key.startswith("litellm.")}
    result = check_result(run.stdout, {key: adapter.KEYS[key] for key in adapter.KEYS if key not in of_litellm})
    assert of_litellm >= {"litellm.call_ratio", "litellm.stream_ratio"}
    assert "not compared with litellm" in run.stderr
    assert set(PROMISED["adapter"]) <= set(result)
    assert result["paced.messages"] <= result["paced.tokens"] == 16 * 10
    assert result["tokens_per_message"] > 1


def test_what_is_compared_with_has_to_be_there(tmp_path: Path):
    run = bench("adapter", "--litellm", str(tmp_path))
    assert run.returncode == 1
    assert f"{tmp_path} is no virtual environment" in run.stderr
    assert run.stdout == ""


def test_only_stores_there_are_can_be_measured():
    run = bench("registry", "--store", "redis")
    assert run.returncode == 2
    assert "sqlite" in run.stderr


@pytest.mark.parametrize(
    "printed",
    ["", "{}", '{"a": 1}\n{"a": 1}', '{"a": NaN}', '{"a": 0}', '{"a": {"b": 1}}', '{"a": "1"}', '{"a": 1, "b": 1}'],
)
def test_the_check_sees_a_wrong_result(printed: str):
    check_result('{"a": 1}', {"a": ""})
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        check_result(printed, {"a": ""})


def test_defaults_keep_the_promises():
    assert gateway.PLAN.rounds >= 5
    assert model.PLAN.rounds >= 7
    assert gateway.PLAN.limit <= 60
    assert model.PLAN.limit <= 60
    assert registry.PLAN.samples >= 200
    assert adapter.PLAN.rounds >= 7
    assert len((ROOT / "benchmarks" / "bare_proxy.py").read_text().splitlines()) < 40


@pytest.mark.parametrize("name", BENCHMARKS)
def test_help_explains_every_key(name: str):
    run = bench(name, "--help")
    keys = BENCHMARKS[name].KEYS
    assert run.returncode == 0
    assert all(key in run.stdout for key in keys)
    assert "--rounds" not in run.stdout


def test_unknown_benchmark_names_the_known():
    run = bench("gatway")
    assert run.returncode == 2
    assert "gateway" in run.stderr
    assert run.stdout == ""


def test_interrupted_it_leaves_no_process_behind():
    command = [sys.executable, "-m", "benchmarks.run", "gateway", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        while "warming up" not in run.stderr.readline():
            assert run.poll() is None
        started = children(run.pid)
        assert len(started) == 6
        run.terminate()
        stdout, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert stdout == ""
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("model", [openai_backend.FAST, openai_backend.PACED])
async def test_the_backend_sends_what_it_is_asked_for_and_says_so(tmp_path: Path, model: str):
    arguments = ("benchmarks.openai_backend", "200")
    async with running("backend", *arguments, folder=tmp_path, talks=True) as backend:
        async with VLLM(VLLMConfig(url=await backend.read_line())) as provider:
            assert set(await provider.list_served()) == {openai_backend.FAST, openai_backend.PACED}
            whole = await provider.chat_completion(requests.chat(model, requests.SAID, 1))
            assert whole.completion_message.content.items[0].text == " word" * 50
            stream = await provider.stream_chat_completion(requests.chat(model, requests.SAID, 30))
            events = [chunk.event async for chunk in stream]
        tokens = "".join(event.text for event in events).split()
        assert len(tokens) == events[-1].usage.completion_tokens == 30
        assert tokens == sorted(tokens)  # words, or times
        for sent in (30 if model == openai_backend.PACED else 0, 0):
            await backend.write_line("")
            assert int(await backend.read_line()) == sent


async def test_tokens_that_were_joined_are_fewer_messages():
    class Stream:
        def __init__(self, *messages):
            self._messages = [*messages, grpc.aio.EOF]

        async def read(self):
            return self._messages.pop(0)

    sent = time.monotonic_ns() - 5_000_000
    apart = Stream(chunks.START, chunks.said(f" {sent}"), chunks.said(f" {sent}"))
    joined = Stream(chunks.START, chunks.said(f" {sent} {sent}"))
    assert [len(delays) for delays in await delays_ms(apart)] == [1, 1]
    (delays,) = await delays_ms(joined)
    assert len(delays) == 2
    assert min(delays) >= 5


async def test_a_process_that_fails_shows_its_log(tmp_path: Path):
    async with running("child", "registry_service", "--config", "nowhere.yaml", folder=tmp_path, talks=True) as child:
        with pytest.raises(BenchmarkError, match=r"child ended early; .*\n.*nowhere.yaml: cannot be read"):
            await child.read_line()


async def test_cpu_of_a_process_is_its_own(tmp_path: Path):
    async with running("idle", "benchmarks.load", folder=tmp_path, talks=True) as idle:
        before = idle.cpu_seconds
        sum(i * i for i in range(2_000_000))
        used = time.process_time()
        assert idle.cpu_seconds - before < used
