"""What boto3's errors, and Bedrock's, mean."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as boto
from urllib3 import exceptions as http

from services.inference.bedrock.credentials import Account, Credential
from services.inference.bedrock.errors import failure, meaning, streams_no_tools
from stackmesh.errors import (
    BackendPermissionDenied,
    BackendRejected,
    BackendUnauthenticated,
    BackendUnreachable,
    ContextExceeded,
    Internal,
    MeshError,
    NotServing,
    QueueFull,
    RateLimited,
    Timeout,
    Unsupported,
)

KEY_ID, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG", "FwoGZXIvYXdzEBYaDEXAMPLE"
ACCOUNT = Account(Credential(KEY_ID, SECRET, TOKEN, "us-east-1"), "Bedrock in us-east-1")


def refused(code: str, text: str = "oh", status: int = 400, **headers: str) -> MeshError:
    answer = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    error = boto.ClientError({"Error": {"Code": code, "Message": text}, "ResponseMetadata": answer}, "Converse")  # pyright: ignore[reportArgumentType] -- as botocore makes it
    return meaning(error, ACCOUNT)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("AccessDeniedException", 403, BackendPermissionDenied),
        ("ResourceNotFoundException", 404, NotServing),
        ("ThrottlingException", 429, RateLimited),
        ("ServiceQuotaExceededException", 400, RateLimited),
        ("ModelNotReadyException", 429, BackendUnreachable),
        ("ModelTimeoutException", 408, Timeout),
        ("ModelErrorException", 424, Internal),
        ("InternalServerException", 500, Internal),
        ("ServiceUnavailableException", 503, BackendUnreachable),
        ("ValidationException", 400, BackendRejected),
        ("UnknownOperationException", 404, Unsupported),
        ("UnrecognizedClientException", 403, BackendUnauthenticated),
        ("InvalidSignatureException", 403, BackendUnauthenticated),
        ("ExpiredTokenException", 403, BackendUnauthenticated),
        ("MissingAuthenticationTokenException", 403, BackendUnauthenticated),
        ("IncompleteSignatureException", 400, BackendUnauthenticated),
        ("", 502, BackendUnreachable),
        ("", 504, Timeout),
        ("SomethingNew", 418, BackendRejected),
        ("SomethingNew", 599, Internal),
    ],
)
def test_what_a_code_means(code: str, status: int, kind: type[MeshError]) -> None:
    error = refused(code, "oh", status)
    assert type(error) is kind
    assert "Bedrock in us-east-1" in error.message
    if kind is not BackendUnauthenticated:
        assert error.message.endswith(": oh")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("The provided model identifier is invalid.", NotServing),
        ("Could not resolve the foundation model from the provided model identifier.", NotServing),
        ("Invocation of model ID x with on-demand throughput isn\u2019t supported. Retry your request.", NotServing),
        ("This model doesn't support tool use.", Unsupported),
        ("This model doesn't support the toolConfig.toolChoice.any field. Remove it and try again.", Unsupported),
        ("Malformed input request: extraneous key [x] is not permitted, please reformat your input.", Unsupported),
        ("A conversation must alternate between user and assistant roles.", BackendRejected),
        ("The maximum tokens you requested exceeds the model limit of 2048.", BackendRejected),
        ("Input is too long for requested model.", BackendRejected),
    ],
)
def test_what_a_validation_is_about(text: str, kind: type[MeshError]) -> None:
    error = refused("ValidationException", text)
    assert type(error) is kind
    assert text[:40] in error.message


@pytest.mark.parametrize(
    ("text", "prompt", "context"),
    [
        ("The model returned the following errors: prompt is too long: 200049 tokens > 200000 maximum", 200049, 200000),
        (
            "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token count: 9875 ",
            9875,
            8192,
        ),
        ("Input length (195071) exceeds model's maximum context length (131072).", 195071, 131072),
    ],
)
def test_a_prompt_that_is_too_long(text: str, prompt: int, context: int) -> None:
    error = refused("ValidationException", text)
    assert isinstance(error, ContextExceeded)
    assert error.metadata == {"prompt_tokens": str(prompt), "context_tokens": str(context)}


def test_a_prompt_that_is_too_long_by_nobody_knows_how_much() -> None:
    text = "This model's maximum context length is 8192 tokens. Please reduce the length of the prompt"
    error = refused("ValidationException", text)
    assert isinstance(error, ContextExceeded)
    assert error.metadata == {"prompt_tokens": "8193", "context_tokens": "8192"}
    assert error.message == "the prompt has more tokens than the 8192 that the model's context holds"


@pytest.mark.parametrize(("said", "seconds"), [("7", 7.0), ("nonsense", None), ("", None)])
def test_when_to_come_back(said: str, seconds: float | None) -> None:
    error = refused("ThrottlingException", "slow down", 429, **{"retry-after": said})
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("throttlingException", RateLimited),
        ("validationException", BackendRejected),
        ("internalServerException", Internal),
        ("modelStreamErrorException", Internal),
        ("modelTimeoutException", Timeout),
        ("serviceUnavailableException", BackendUnreachable),
        ("InternalFailure", Internal),
        ("neverHeardOf", Internal),
    ],
)
def test_what_a_failure_in_mid_stream_means(code: str, kind: type[MeshError]) -> None:
    error = failure({"failure": code, "message": "oh"}, ACCOUNT)
    assert type(error) is kind
    assert error.message.endswith(": oh")


URL = "https://h"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (boto.NoCredentialsError(), BackendUnauthenticated),
        (boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"), BackendUnauthenticated),
        (boto.CredentialRetrievalError(provider="x", error_msg="hunter2"), BackendUnauthenticated),
        (boto.ConnectTimeoutError(endpoint_url=URL), BackendUnreachable),
        (boto.SSLError(endpoint_url=URL, error="x"), BackendUnreachable),
        (boto.ProxyConnectionError(proxy_url="http://user:hunter2@p"), BackendUnreachable),
        (boto.ReadTimeoutError(endpoint_url=URL), Timeout),
        (http.ReadTimeoutError(None, URL, "x"), Timeout),  # pyright: ignore[reportArgumentType] -- no pool
        (boto.ConnectionClosedError(endpoint_url=URL), BackendUnreachable),
        (http.ProtocolError("x"), BackendUnreachable),
        (ConnectionResetError(), BackendUnreachable),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), BackendUnreachable),
        (boto.NoRegionError(), Internal),
        (KeyError("hunter2"), Internal),
        (QueueFull("full"), QueueFull),
    ],
)
def test_what_boto3_s_own_errors_mean(error: Exception, kind: type[MeshError]) -> None:
    meant = meaning(error, ACCOUNT)
    assert isinstance(meant, kind)
    assert "hunter2" not in meant.message
    assert not isinstance(meant, BackendUnreachable) or not meant.gone


def test_nothing_listens() -> None:
    refusing = http.NewConnectionError(None, "refused")  # pyright: ignore[reportArgumentType] -- no connection
    unknown = http.NameResolutionError("h", None, OSError())  # pyright: ignore[reportArgumentType] -- no connection
    gone = meaning(boto.EndpointConnectionError(endpoint_url=URL, error=refusing), ACCOUNT)
    nameless = meaning(boto.EndpointConnectionError(endpoint_url=URL, error=unknown), ACCOUNT)
    assert isinstance(gone, BackendUnreachable)
    assert isinstance(nameless, BackendUnreachable)
    assert (gone.gone, nameless.gone) == (True, False)


def test_who_has_no_credentials_is_told_how_to_send_some() -> None:
    message = meaning(boto.NoCredentialsError(), ACCOUNT).message
    assert "aws_access_key_id and aws_secret_access_key" in message
    assert "x-stackmesh-provider-data" in message


@pytest.mark.parametrize("text", [KEY_ID, SECRET, TOKEN, "ASIAQWERTYUIOPASDFGH"])
@pytest.mark.parametrize("code", ["ValidationException", "AccessDeniedException", "InvalidSignatureException", "Odd"])
def test_no_credential_is_shown(code: str, text: str) -> None:
    error = refused(code, f"the header said Credential={text}/20260101/us-east-1, and x-amz-security-token:{text}")
    assert text not in error.message
    assert text not in failure({"failure": "odd", "message": text}, ACCOUNT).message
    assert text not in repr(ACCOUNT) + str(ACCOUNT)


def test_a_model_that_streams_no_tools() -> None:
    refusal = "This model doesn't support tool use in streaming mode."
    assert streams_no_tools(refused("ValidationException", refusal))
    assert not streams_no_tools(refused("ValidationException", "This model doesn't support tool use."))


@pytest.mark.parametrize("response", [{}, {"Error": {}}, {"Error": {"Code": None, "Message": None}, "message": 7}])
def test_errors_without_what_they_should_have(response: Any) -> None:
    assert isinstance(meaning(boto.ClientError(response, "Converse"), ACCOUNT), Internal)
