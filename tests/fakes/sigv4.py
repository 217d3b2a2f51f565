"""AWS's signature, version 4, as the one checks it who was sent it.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html (read in 2026).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from tests.fakes.http_server import Received


@dataclass(frozen=True)
class Signature:
    """What the header Authorization says."""

    key_id: str
    date: str
    region: str
    service: str
    headers: tuple[str, ...]
    value: str


def signature(request: Received) -> Signature | None:
    """That of a request; None if it has none."""
    said = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
        r"SignedHeaders=([^,]+), Signature=(\w+)",
        request.headers.get("authorization", ""),
    )
    return Signature(*said.groups()[:4], tuple(said[5].split(";")), said[6]) if said else None


def canonical(request: Received, signed: Signature) -> str:
    """The request as it is signed."""
    path, _, query = request.path.partition("?")
    parameters = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(query))
    return "\n".join(
        [
            request.method,
            quote(path, safe="/-_.~"),  # which has been encoded once already
            "&".join(f"{name}={value}" for name, value in parameters),
            *(f"{name}:{' '.join(request.headers[name].split())}" for name in signed.headers),
            "",
            ";".join(signed.headers),
            hashlib.sha256(request.raw).hexdigest(),
        ]
    )


def is_right(request: Received, signed: Signature, secret: str) -> bool:
    """Whether who signed knew the secret."""
    scope = f"{signed.date}/{signed.region}/{signed.service}/aws4_request"
    digest = hashlib.sha256(canonical(request, signed).encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in (signed.date, signed.region, signed.service, "aws4_request", to_sign):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.compare_digest(key.hex(), signed.value)
