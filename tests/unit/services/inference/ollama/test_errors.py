"""What Ollama's errors become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.inference.ollama.errors import failure, refusal
from stackmesh import errors
from tests.fakes.documented import Documented

KEY = "sk-live-0123456789abcdef"
DOCUMENTED = Documented.of("ollama")


def refused(name: str, key: str | None = None, **values: Any) -> errors.MeshError:
    reply = DOCUMENTED.refusal(name, **values)
    [body] = reply.pieces
    assert isinstance(body, bytes)
    return refusal("host:11434", reply.status, body, key=key)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("400", errors.BackendRejected, "answered 400: it is wrong"),
        ("401", errors.BackendUnauthenticated, "unauthorized; send a key as ollama_api_key in the provider data"),
        ("signed_out", errors.BackendUnauthenticated, "it has to be signed in to Ollama's cloud (ollama signin)"),
        ("403", errors.BackendPermissionDenied, "ollama cloud is disabled"),
        ("404", errors.NotServing, "model 'm' not found"),
        ("embed_404", errors.NotServing, 'model "m" not found'),
        ("429", errors.RateLimited, "session usage limit"),
        ("500", errors.Internal, "model runner has unexpectedly stopped"),
        ("503", errors.BackendUnreachable, "answered 503: Loading model"),
        ("busy", errors.QueueFull, "maximum pending requests exceeded"),
        ("too_long", errors.ContextExceeded, "the prompt has 700 tokens, the model's context holds 512"),
        ("too_long_uncounted", errors.BackendRejected, "the input length exceeds the context length"),
        ("bad_schema", errors.BackendRejected, "answered 400: failed to parse grammar"),
        ("cannot", errors.Unsupported, '"m" does not support chat'),
        ("no_tools", errors.Unsupported, "does not support tools"),
    ],
)
def test_documented_errors(name: str, kind: type[errors.MeshError], text: str) -> None:
    error = refused(name, model="m", what="chat", problem="it is wrong", prompt_tokens=700, context_tokens=512)
    assert type(error) is kind
    assert text in error.message


def test_a_full_queue_says_when_to_come_again() -> None:
    error = refused("busy")
    assert isinstance(error, errors.QueueFull)
    assert error.retry_after == 1.0


def test_retry_after_is_kept() -> None:
    error = refusal("h", 429, b'{"error": "slow down"}', retry_after="7")
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == 7.0


def test_a_wrong_key_is_no_missing_key() -> None:
    assert "provider data" not in refused("401", key=KEY).message


@pytest.mark.parametrize("body", [b"404 page not found", b"<html>", b"", b'{"error": "no such path"}'])
def test_a_path_that_there_is_not_says_what_to_check(body: bytes) -> None:
    error = refusal("host:1", 404, body)
    assert type(error) is errors.Unsupported
    assert "its url is wrong" in error.message


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b"7", b'"text"', b'{"error": null}', b'{"error": 7}', b"\xff", b'{"error": "{7"}']
)
def test_bodies_of_any_form_are_borne(body: bytes) -> None:
    for status in (400, 401, 404, 429, 500, 503, 599):
        assert isinstance(refusal("h", status, body), errors.MeshError)


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": "an error was encountered while running the model"}, errors.Internal),
        ({"error": '{"error": {"code": 503, "message": "Loading model"}}'}, errors.BackendUnreachable),
        ({"error": '{"error": {"code": 200, "message": "what"}}'}, errors.Internal),
        ({"error": '{"error": "text"}'}, errors.Internal),
        ({"error": {"message": "text"}}, errors.Internal),
    ],
)
def test_errors_in_a_stream(event: dict[str, Any], kind: type[errors.MeshError]) -> None:
    assert type(failure("h", event, None)) is kind


def test_no_key_is_shown_wherever_it_is_said() -> None:
    inner = json.dumps({"error": {"code": 400, "message": f"key {KEY} is bad"}})
    for error in (
        refusal("h", 401, json.dumps({"error": f"key {KEY} is bad"}).encode(), key=KEY),
        refusal("h", 400, json.dumps({"error": inner}).encode(), key=KEY),
        failure("h", {"error": f"not with {KEY[:10]}***"}, KEY),
    ):
        assert "0123" not in error.message
        assert "[redacted]" in error.message
