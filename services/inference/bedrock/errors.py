"""What boto3 raises, and what Bedrock means by its errors.

The codes are those of https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html and of
the service models that botocore carries. What a ValidationException is about, only its text says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, Final

from botocore import exceptions as boto
from urllib3 import exceptions as http

from services.inference.bedrock.credentials import HOW_TO_SEND, Account
from services.inference.remote.errors import seconds, shown
from services.inference.remote.streams import Json
from stackmesh.errors import (
    BackendPermissionDenied,
    BackendRejected,
    BackendUnauthenticated,
    BackendUnreachable,
    ContextExceeded,
    Internal,
    MeshError,
    NotServing,
    RateLimited,
    Timeout,
    Unsupported,
)

_BY_CODE: Final[Mapping[str, type[MeshError]]] = {
    "AccessDeniedException": BackendPermissionDenied,
    "BadCScoreException": BackendPermissionDenied,
    "NotAuthorized": BackendPermissionDenied,
    "OptInRequired": BackendPermissionDenied,
    "ResourceNotFoundException": NotServing,
    "FTUFormNotFilled": NotServing,
    "ThrottlingException": RateLimited,
    "Throttling": RateLimited,
    "TooManyRequestsException": RateLimited,
    "ServiceQuotaExceededException": RateLimited,
    "ModelNotReadyException": BackendUnreachable,  # it is being loaded
    "ServiceUnavailableException": BackendUnreachable,
    "ServiceUnavailable": BackendUnreachable,
    "ModelTimeoutException": Timeout,
    "RequestExpired": Internal,  # our clock is wrong
    "InternalServerException": Internal,
    "InternalFailure": Internal,
    "ModelErrorException": Internal,
    "ModelStreamErrorException": Internal,
    "UnknownOperationException": Unsupported,
}
_BY_STATUS: Final[Mapping[int, type[MeshError]]] = {
    400: BackendRejected,
    401: BackendUnauthenticated,
    403: BackendPermissionDenied,
    404: Unsupported,
    408: Timeout,
    413: BackendRejected,
    429: RateLimited,
    502: BackendUnreachable,
    503: BackendUnreachable,
    504: Timeout,
}
"""For codes that are not above: a proxy's, as a rule."""
_NOT_ACCEPTED: Final = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
"""Codes about credentials. Their texts may show what was signed, session tokens among it, and are not passed on."""

_KEY_ID: Final = re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{12,}")
_NO_MODEL: Final = re.compile(
    r"model identifier is invalid|Could not resolve the foundation model|on-demand throughput isn.t supported"
    r"|inference profile .*(?:not|does)"
)
_CANNOT: Final = re.compile(r"(?:doesn.t|does not|is not|isn.t) support|not supported|not permitted")
_NO_STREAMED_TOOLS: Final = re.compile(r"support tool use in streaming mode")
_TOO_LONG: Final = (
    re.compile(r"prompt is too long: (?P<prompt>\d+) tokens > (?P<context>\d+) maximum"),  # Claude
    re.compile(r"Max input tokens: (?P<context>\d+), request input token count: (?P<prompt>\d+)"),  # Titan
    re.compile(r"Input length \((?P<prompt>\d+)\) exceeds model's maximum context length \((?P<context>\d+)\)"),
    re.compile(r"maximum context length is (?P<context>\d+) tokens\. Please reduce the length of the prompt"),  # Llama
)


def meaning(error: Exception, account: Account) -> MeshError:
    """What went wrong with a call."""
    if isinstance(error, MeshError):
        return error
    if isinstance(error, boto.ClientError):
        return _refused(error, account)
    for kinds, made in _BY_KIND:
        if isinstance(error, kinds):
            return made(error, account)
    return Internal(f"the answer of {account.where} does not have the form of its API")


def _unconnected(error: Any, account: Account) -> MeshError:
    gone = not isinstance(error.kwargs.get("error"), http.NameResolutionError)  # those fail and come back
    why = "nothing listens there" if gone else "its name is not known"
    return BackendUnreachable(f"{account.where} cannot be reached: {why}", gone=gone)


def _unreachable(said: str) -> _Made:
    return lambda _, account: BackendUnreachable(f"{account.where} {said}")


class NoCredentials(BackendUnauthenticated):
    """There are none at all: the caller sent none, and boto3 found none of the server's own."""

    def __init__(self) -> None:
        super().__init__(f"there are no AWS credentials for this call: {HOW_TO_SEND}, or configure them for the server")


_Made = Callable[[Any, Account], MeshError]
_BY_KIND: Final[Sequence[tuple[tuple[type[Exception], ...], _Made]]] = (
    (
        (boto.NoCredentialsError, boto.NoAuthTokenError, boto.PartialCredentialsError),
        lambda _, __: NoCredentials(),
    ),
    (
        (boto.CredentialRetrievalError, boto.TokenRetrievalError, boto.SSOError, boto.LoginError),
        lambda error, _: BackendUnauthenticated(
            f"the server's own AWS credentials could not be had ({type(error).__name__})"
        ),
    ),
    (
        (boto.ParamValidationError,),
        lambda error, account: BackendRejected(f"{account.where} would refuse this: {_shown(str(error), account)}"),
    ),
    ((boto.EndpointConnectionError,), _unconnected),
    ((boto.ConnectTimeoutError,), _unreachable("did not accept a connection in time")),
    ((boto.SSLError,), _unreachable("offers no TLS that can be trusted")),
    ((boto.ProxyConnectionError,), _unreachable("cannot be reached: the proxy does not let it")),
    (
        (boto.ReadTimeoutError, http.ReadTimeoutError),
        lambda _, account: Timeout(f"{account.where} was silent for too long"),
    ),
    (
        (boto.HTTPClientError, boto.IncompleteReadError, http.HTTPError, OSError, CancelledError),
        _unreachable("closed the connection before its answer was complete"),
    ),
    (
        (boto.BotoCoreError,),
        lambda error, account: Internal(f"{account.where} could not be asked ({type(error).__name__})"),
    ),
)
"""The first that fits."""


def failure(event: Json, account: Account) -> MeshError:
    """What a failure in mid-stream means."""
    code = str(event["failure"])
    text = event.get("message") or event.get("originalMessage") or ""
    return _meaning(code[:1].upper() + code[1:], 500, str(text), account)


def streams_no_tools(error: MeshError) -> bool:
    """Whether a model refused to stream only because there are tools."""
    return isinstance(error, Unsupported) and _NO_STREAMED_TOOLS.search(error.message) is not None


def _refused(error: Any, account: Account) -> MeshError:
    said, answer = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    retry_after = answer.get("HTTPHeaders", {}).get("retry-after", "")
    code, text = str(said.get("Code") or ""), said.get("Message") or error.response.get("message") or ""
    return _meaning(code, answer.get("HTTPStatusCode", 500), str(text), account, retry_after)


def _meaning(code: str, status: int, text: str, account: Account, retry_after: str = "") -> MeshError:
    if code in _NOT_ACCEPTED:
        return BackendUnauthenticated(f"{account.where} did not accept the AWS credentials ({code})")
    said = f"{account.where} answered {code or status}"
    if text := _shown(text, account):
        said += f": {text}"
    if code == "ValidationException":
        return _invalid(text, said)
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (BackendRejected if 400 <= status < 500 else Internal)
    if kind is RateLimited:
        return RateLimited(said, retry_after=seconds(retry_after))
    return kind(said)


def _invalid(text: str, said: str) -> MeshError:
    for pattern in _TOO_LONG:
        if (found := pattern.search(text)) is not None:
            return _too_long(found.groupdict())
    if _NO_MODEL.search(text):
        return NotServing(said)
    return Unsupported(said) if _CANNOT.search(text) else BackendRejected(said)


def _too_long(numbers: Mapping[str, str]) -> ContextExceeded:
    context = int(numbers["context"])
    if "prompt" in numbers:
        return ContextExceeded(int(numbers["prompt"]), context)
    error = ContextExceeded(context + 1, context)  # Llama models do not say how long the prompt is
    error.message = f"the prompt has more tokens than the {context} that the model's context holds"
    return error


def _shown(text: str, account: Account) -> str:
    return shown(_KEY_ID.sub("[redacted]", text), account.secrets)
