"""What a backend's errors become."""

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.inference.remote.errors import TEXT_LIMIT, meaning, refusal
from stackmesh import errors

KEY = "sk-live-0123456789abcdef"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (307, errors.BackendUnreachable),
        (400, errors.BackendRejected),
        (401, errors.BackendUnauthenticated),
        (402, errors.BackendPermissionDenied),
        (403, errors.BackendPermissionDenied),
        (404, errors.Unsupported),
        (405, errors.Unsupported),
        (408, errors.Timeout),
        (412, errors.NotServing),
        (413, errors.BackendRejected),
        (422, errors.BackendRejected),
        (429, errors.RateLimited),
        (500, errors.Internal),
        (501, errors.Unsupported),
        (502, errors.BackendUnreachable),
        (503, errors.BackendUnreachable),
        (504, errors.Timeout),
        (529, errors.Internal),
    ],
)
def test_a_status_keeps_its_meaning(status: int, expected: type[errors.MeshError]) -> None:
    error = refusal("host:8000", status, b'{"error": {"message": "because"}}')
    assert type(error) is expected
    assert error.message.startswith(f"host:8000 answered {status}: because")


@pytest.mark.parametrize(
    "error",
    [
        {"message": "The model `x` does not exist.", "type": "NotFoundError", "param": None, "code": 404},
        {"message": "unknown", "param": "model"},
        {"message": "unknown", "code": "model_not_found"},
    ],
)
def test_a_model_the_backend_does_not_know_is_not_serving(error: object) -> None:
    assert type(meaning("host:1", 404, {"error": error})) is errors.NotServing


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"error": {"message": "one"}}, ": one"),
        ({"error": "two"}, ": two"),
        ({"error": "RATE_LIMIT_EXCEEDED", "message": "two and a half"}, ": two and a half"),
        ({"object": "error", "message": "three", "code": 400}, ": three"),
        ({"detail": "four"}, ": four"),
        ({"detail": [{"loc": ["body"], "msg": "five"}]}, ": [{'loc': ['body'], 'msg': 'five'}]"),
        ({"error": {}}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_text_is_found_in_every_form(body: object, text: str) -> None:
    assert meaning("host:1", 400, body).message == f"host:1 answered 400{text}"


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"\xff\xfe", b'{"error": '])
def test_a_body_that_is_not_json_says_nothing(body: bytes) -> None:
    assert refusal("host:1", 502, body).message == "host:1 answered 502"


def test_a_long_text_is_clipped_and_stays_on_one_line() -> None:
    message = meaning("h:1", 400, {"error": {"message": "a\r\n\x00b" + "c" * 1000}}).message
    assert message.startswith("h:1 answered 400: a bccc")
    assert len(message) == len("h:1 answered 400: ") + TEXT_LIMIT


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        "Incorrect API key provided: sk-live-****cdef.",
        "Incorrect API key provided: sk-liv...",
        f"bad header Authorization: Bearer {KEY}",
        "another's: sk-proj-abcdefgh, hf_abcdefgh and gsk_abcdefgh",
    ],
)
def test_nothing_that_looks_like_a_key_is_shown(text: str) -> None:
    message = meaning("h:1", 401, {"error": {"message": text}}, key=KEY).message
    assert "[redacted]" in message
    for part in (KEY, "sk-liv", "cdef", "abcdefgh"):
        assert part not in message


def test_a_key_without_a_known_form_is_removed_too() -> None:
    assert "hunter2" not in meaning("h:1", 400, {"error": {"message": "key hunter2 is bad"}}, key="hunter2").message


@pytest.mark.parametrize(
    "body",
    [
        # llama.cpp
        {"code": 400, "message": "request (3031 tokens) exceeds the available context size (1024 tokens), try "
         "increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 3031, "n_ctx": 1024},
        {"message": "request (3031 tokens) exceeds the available context size (1024 tokens), try increasing it"},
        # vLLM and OpenAI, over the years
        {"message": "This model's maximum context length is 1024 tokens. However, your request has 3031 input tokens. "
         "Please reduce the length of the input messages. (parameter=input_tokens, value=3031)"},
        {"message": "This model's maximum context length is 1024 tokens. However, you requested 0 output tokens and "
         "your prompt contains at least 3031 input tokens, for a total of at least 3031 tokens."},
        {"message": "This model's maximum context length is 1024 tokens. However, you requested 3131 tokens (3031 in "
         "the messages, 100 in the completion). Please reduce the length of the messages or completion."},
        {"message": "This model's maximum context length is 1024 tokens. However, your messages resulted in 3031 "
         "tokens."},
        {"message": "This model's maximum context length is 1024 tokens. However, you requested 3031 tokens in the "
         "input for embedding generation."},
        {"message": "You passed 3031 input tokens and requested 0 output tokens. However, the model's context length "
         "is only 1024 tokens, resulting in a maximum input length of 1024 tokens."},
        {"message": "This model's maximum context length is 1024 tokens. However, you requested 3031 tokens in the "
         "messages, Please reduce the length of the messages."},
        # Fireworks
        {"message": "The prompt is too long: 3031, model maximum context length: 1024"},
        # Together
        {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1024. Given: 3031 `inputs` "
         "tokens and 1 `max_new_tokens`"},
    ],
)  # fmt: skip
def test_a_prompt_over_the_context_has_both_numbers(body: object) -> None:
    error = refusal("h:1", 400, json.dumps({"error": body}).encode())
    assert type(error) is errors.ContextExceeded
    assert error.metadata == {"prompt_tokens": "3031", "context_tokens": "1024"}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            400,
            (
                "This model's maximum context length is 2048 tokens. However, you requested 2045 output tokens and "
                "your prompt contains at least 8 input tokens, for a total of at least 2053 tokens."
            ),
        ),
        (
            400,
            (
                "You passed 8 input tokens and requested 2045 output tokens. However, the model's context length is "
                "only 2048 tokens, resulting in a maximum input length of 3 tokens."
            ),
        ),
        (
            422,
            (
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 8 `inputs` tokens "
                "and 2045 `max_new_tokens`"
            ),
        ),
    ],
)
def test_a_prompt_that_fits_is_not_blamed_for_max_tokens(status: int, text: str) -> None:
    error = meaning("h:1", status, {"error": {"message": text}})
    assert type(error) is errors.BackendRejected
    assert "2045" in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("", None),
        ("soon", None),
        ("-3", 0.0),
        ("nan", 0.0),
        ("inf", 86400.0),
        ("9e9", 86400.0),
    ],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    error = meaning("h:1", 429, None, retry_after=header)
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == seconds
    errors.to_status(error)  # it fits into google.rpc.RetryInfo


def test_retry_after_as_a_date() -> None:
    error = meaning(
        "h:1", 429, None, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    )
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after is not None
    assert 60 < error.retry_after <= 90
