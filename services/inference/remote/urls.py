"""Where a backend is, as a configuration says it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # it is no number
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("must begin with http:// or https:// and name a host, for example http://localhost:8000/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("must have no user, query or fragment; credentials have a field of their own")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_check_url)]
"""The root of an API."""


def host_of(url: Url) -> str:
    """`host:port`, which is all of a URL that an error shows."""
    parts = urlsplit(url)
    return parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
