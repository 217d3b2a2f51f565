"""What a name means at an Ollama server."""

from __future__ import annotations

import pytest

from services.inference import tables
from services.inference.ollama.names import Names, tagged
from stackmesh.errors import AmbiguousName, NotHosted

FP16 = "llama3.1:8b-instruct-fp16"
SERVED = [FP16, "mistral:latest", "someone/mine:latest", "llama3.2:1b"]
TABLE = tables.provider("ollama")
OTHERS = tables.llama().names.keys()
RUNNING = Names(TABLE, OTHERS, loads=False, pulls=False)
LOADING = Names(TABLE, OTHERS, loads=True, pulls=False)
PULLING = Names(TABLE, OTHERS, loads=True, pulls=True)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        (FP16, FP16),
        ("mistral", "mistral:latest"),
        ("mistral:latest", "mistral:latest"),
        ("someone/mine", "someone/mine:latest"),
        ("Llama3.1-8B-Instruct", FP16),
        ("meta-llama/Llama-3.1-8B-Instruct", FP16),
        ("llama3.2:1b", "llama3.2:1b"),
    ],
)
def test_a_model_is_found_by_all_its_names(name: str, own: str) -> None:
    for names in (RUNNING, LOADING, PULLING):
        assert names.resolve(name, SERVED, "host") == own


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            RUNNING,
            "host does not run 'llama3.1'; there are: .*mistral:latest.* Run it there (ollama run llama3.1), or set",
        ),
        (
            LOADING,
            "host has not pulled 'llama3.1'; there are: .*mistral:latest.* Pull it there (ollama pull llama3.1), or",
        ),
        (PULLING, "host has not pulled 'llama3.1'; there are: .* To have it pulled say its tag, llama3.1:latest"),
    ],
)
def test_what_is_not_there_says_what_is_and_what_to_do(names: Names, text: str) -> None:
    with pytest.raises(NotHosted, match=text.replace("(", r"\(").replace(")", r"\)")):
        names.resolve("llama3.1", SERVED, "host")


def test_what_to_run_is_said_in_ollamas_words() -> None:
    with pytest.raises(NotHosted, match=r"ollama run llama3\.2:3b-instruct-fp16"):
        RUNNING.resolve("meta-llama/Llama-3.2-3B-Instruct", SERVED, "host")


def test_nothing_at_all() -> None:
    with pytest.raises(NotHosted, match="there are none"):
        RUNNING.resolve("llama3.1", [], "host")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("qwen3:0.6b", "qwen3:0.6b"),
        ("mistral:7b", "mistral:7b"),
        ("hf.co/bartowski/Qwen2.5-GGUF:Q4_K_M", "hf.co/bartowski/Qwen2.5-GGUF:Q4_K_M"),
        ("registry.local:5000/us/mine:v2", "registry.local:5000/us/mine:v2"),
        ("Llama3.2-3B-Instruct", "llama3.2:3b-instruct-fp16"),
        ("llama3.2-vision", "llama3.2-vision:latest"),
    ],
)
def test_what_can_be_pulled_is_wanted_only_where_that_is_allowed(name: str, own: str) -> None:
    assert PULLING.resolve(name, SERVED, "host") == own
    for names in (RUNNING, LOADING):
        with pytest.raises(NotHosted):
            names.resolve(name, SERVED, "host")


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4",
        "meta-llama/Llama-3.3-70B-Instruct",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "meta.llama3-1-8b-instruct-v1:0",
        "Llama3.1-405B:bf16-mp8",
        "a:b:c/",
        "x" * 255,
    ],
)
def test_names_that_seem_another_providers_are_left_to_it(name: str) -> None:
    with pytest.raises(NotHosted):
        PULLING.resolve(name, SERVED, "host")


def test_an_alias_of_two_is_ambiguous() -> None:
    with pytest.raises(AmbiguousName):
        Names(tables.llama_by_name(), (), loads=False, pulls=False).resolve(
            "meta-llama/Llama-3.1-405B", ["Llama3.1-405B:bf16-mp8", "Llama3.1-405B:bf16-mp16"], "host"
        )


@pytest.mark.parametrize(
    ("name", "whole"),
    [("a", "a:latest"), ("a:b", "a:b"), ("h:1/a", "h:1/a:latest"), ("h:1/n/a:b", "h:1/n/a:b")],
)
def test_tags(name: str, whole: str) -> None:
    assert tagged(name) == whole
