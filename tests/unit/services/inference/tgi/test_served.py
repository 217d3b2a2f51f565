"""The one model of a server."""

from __future__ import annotations

from typing import Any

import pytest

from services.inference.tgi.served import served
from stackmesh.errors import Internal, NotHosted


def info(model_id: str, tag: str | None = None) -> dict[str, Any]:
    return {"model_id": model_id, "model_pipeline_tag": tag}


def test_a_model_has_the_name_the_server_gives_it() -> None:
    assert served(info("meta-llama/Llama-3.1-8B"), None, "h:1").name == "meta-llama/Llama-3.1-8B"
    assert served(info("meta-llama/Llama-3.1-8B"), "meta-llama/Llama-3.1-8B", "h:1").name == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize("path", ["/data/model", "./model", "/repository", ""])
def test_a_path_is_no_name(path: str) -> None:
    assert served(info(path), "my-model", "h:1").name == "my-model"
    with pytest.raises(NotHosted, match=r"a local path, which is no name.*set the provider's `model`") as caught:
        served(info(path), None, "h:1")
    assert repr(path) in caught.value.message


def test_a_server_with_another_model_than_configured_is_found_out() -> None:
    with pytest.raises(NotHosted, match="h:1 serves org/other, not org/mine as"):
        served(info("org/other"), "org/mine", "h:1")


@pytest.mark.parametrize(
    ("tag", "blind"), [(None, False), ("image-text-to-text", False), ("text-generation", True), ("new", False)]
)
def test_who_cannot_see(tag: str | None, blind: bool) -> None:
    assert served(info("m", tag), None, "h:1").blind is blind


@pytest.mark.parametrize("answer", [{}, [], "text", {"model": "x"}])
def test_something_else_is_no_tgi(answer: Any) -> None:
    with pytest.raises(Internal, match="h:1"):
        served(answer, None, "h:1")
