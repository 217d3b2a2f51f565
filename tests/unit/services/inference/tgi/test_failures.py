"""What TGI's errors mean, with a status and inside a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.tgi.failures import failure, refusal
from stackmesh import errors
from tests.fakes.tgi_model import over

PREFIX = "Input validation error: "
LONG = PREFIX + over(1026, 16, 512)
KINDS = [
    ("validation", f"{PREFIX}`top_p` must be > 0.0 and < 1.0", 422, errors.BackendRejected),
    ("validation", LONG, 422, errors.ContextExceeded),
    ("validation", PREFIX + over(500, 16, 512), 422, errors.BackendRejected),  # max_tokens is too large, not the prompt
    ("validation", f"{PREFIX}`inputs` must have less than 511 tokens. Given: 512", 422, errors.ContextExceeded),
    ("overloaded", "Model is overloaded", 429, errors.RateLimited),
    ("generation", "Request failed during generation: CUDA out of memory", 424, errors.Internal),
    ("incomplete_generation", "Incomplete generation", 500, errors.Internal),
    ("incomplete_generation_stream", "Incomplete generation stream", 500, errors.Internal),
    ("template_error", "Template error: syntax error", 422, errors.BackendRejected),
    ("tool_error", "Tool error: Tool with name x not found", 422, errors.BackendRejected),
    ("healthcheck", "unhealthy", 503, errors.BackendUnreachable),
]


@pytest.mark.parametrize(("kind", "text", "status", "meaning"), KINDS)
def test_with_a_status(kind: str, text: str, status: int, meaning: type[errors.MeshError]) -> None:
    error = refusal("h:1", status, json.dumps({"error": text, "error_type": kind}).encode())
    assert type(error) is meaning
    if meaning is not errors.ContextExceeded:
        assert error.message == f"h:1 answered {status}: {text}"


@pytest.mark.parametrize(("kind", "text", "status", "meaning"), [kind for kind in KINDS if kind[0] != "healthcheck"])
def test_inside_a_stream_of_either_kind(kind: str, text: str, status: int, meaning: type[errors.MeshError]) -> None:
    for event in (
        {"error": text, "error_type": kind},
        {"error": {"message": text, "http_status_code": 422}},  # whatever it is
    ):
        error = failure("h:1", event, None)
        assert type(error) is meaning
        if meaning is not errors.ContextExceeded:
            assert error.message == f"h:1 answered {status}: {text}"


def test_both_numbers_of_a_prompt_that_is_too_long() -> None:
    error = refusal("h:1", 422, json.dumps({"error": LONG, "error_type": "validation"}).encode())
    assert error.metadata == {"prompt_tokens": "1026", "context_tokens": "512"}


@pytest.mark.parametrize("event", [{"error": "something new"}, {"error": {"no": "message"}}, {"error": ["x"]}])
def test_what_is_not_known_is_the_servers_fault(event: dict[str, Any]) -> None:
    assert type(failure("h:1", event, None)) is errors.Internal


def test_a_delay() -> None:
    error = refusal("h:1", 429, b'{"error": "Model is overloaded"}', retry_after="7")
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == 7


@pytest.mark.parametrize("body", [b"", b"<html>secret</html>", b"[]", b'"text"', b"Failed to parse the request body"])
def test_a_body_of_another_form_says_nothing(body: bytes) -> None:
    error = refusal("h:1", 422, body)
    assert (type(error), error.message) == (errors.BackendRejected, "h:1 answered 422")


def test_without_a_token_it_is_said_where_to_put_one() -> None:
    missing, wrong = refusal("h:1", 401, b""), refusal("h:1", 401, b"", key="hf_wrong_0123456789")
    assert missing.message == "h:1 answered 401; send a token as tgi_api_token in the provider data"
    assert wrong.message == "h:1 answered 401"
    assert type(missing) is type(wrong) is errors.BackendUnauthenticated


def test_a_url_that_is_wrong() -> None:
    error = refusal("h:1", 404, b"")
    assert type(error) is errors.Unsupported
    assert "is not the root" in error.message
    assert type(refusal("h:1", 404, b'{"error": "Model not found"}')) is errors.NotServing


def test_no_token_is_shown() -> None:
    key = "secret-0123456789"
    event = {"error": f"Request failed during generation: {key}", "error_type": "generation"}
    assert key not in failure("h:1", event, key).message
    assert key not in refusal("h:1", 424, json.dumps(event).encode(), key=key).message
