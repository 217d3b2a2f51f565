"""Credentials as they stand in a configuration or in a caller's provider data."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, SecretStr


def _printable(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x21-\x7e]+", key.get_secret_value()):
        raise ValueError("must be printable ASCII without spaces, and not empty")
    return key


Key = Annotated[SecretStr, AfterValidator(_printable)]
"""A credential that fits into a header."""


def _or_none(key: object) -> object:
    return None if key == "" else key


OwnKey = Annotated[Key | None, BeforeValidator(_or_none)]
"""The configured credential. An empty one is none: `${env.NAME:}` gives it where the variable is not set."""


def secret(*keys: SecretStr | None) -> str | None:
    """The first credential that there is, in clear."""
    return next((key.get_secret_value() for key in keys if key is not None), None)


_SALT: Final = secrets.token_bytes(32)


def mark(key: str | None) -> bytes:
    """What tells this credential from others, in this process only, and cannot be made into it again."""
    return hashlib.sha256(_SALT + key.encode()).digest() if key is not None else b""
