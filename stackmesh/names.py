"""Which names are allowed. Nothing else reaches a header, a store key or Envoy."""

import re
from typing import Final

from stackmesh.errors import InvalidField

RESERVED: Final = "stackmesh/"
"""What the names of the mesh's own resources begin with."""

_RESOURCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,254}", re.ASCII)
_PROVIDER_TYPE: Final = re.compile(r"(inline|remote)::[a-z0-9][a-z0-9:-]{0,62}", re.ASCII)
_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def check_identifier(field: str, value: str) -> str:
    """Return `value` if a resource may be registered under it, else raise InvalidField."""
    if value.startswith(RESERVED):
        raise InvalidField(field, f"begins with {RESERVED}, which is kept for the mesh itself")
    return check_resource_name(field, value)


def check_resource_name(field: str, value: str) -> str:
    """Return `value` if it can name a resource (an identifier or a provider_resource_id), else raise InvalidField."""
    return _check(_RESOURCE, 255, "letters, digits and . _ : / @ + -, beginning with a letter or digit", field, value)


def check_id(field: str, value: str) -> str:
    """Return `value` if it can be a provider_id or instance_id, else raise InvalidField."""
    return _check(_ID, 63, "lower-case letters, digits and . _ -, beginning with a letter or digit", field, value)


def check_provider_type(field: str, value: str) -> str:
    """Return `value` if it can be a provider_type, else raise InvalidField."""
    if _PROVIDER_TYPE.fullmatch(value):
        return value
    raise InvalidField(
        field, "must be inline::NAME or remote::NAME, the NAME of at most 63 lower-case letters, digits and : -"
    )


def _check(pattern: re.Pattern[str], limit: int, allowed: str, field: str, value: str) -> str:
    if pattern.fullmatch(value):
        return value
    if not value:
        raise InvalidField(field, "is empty")
    if len(value) > limit:
        raise InvalidField(field, f"is {len(value)} characters long, at most {limit} are allowed")
    raise InvalidField(field, f"may hold {allowed} only")
