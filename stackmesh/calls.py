"""What a service knows of the call it is answering, beside the request: the resolved route and who asks.

It lives in a context variable of the call's own task: never in a global, a thread-local or a log.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from stackmesh.errors import InvalidProviderData


@dataclass(frozen=True, slots=True)
class Call:
    """One routed call."""

    provider_id: str
    provider_resource_id: str
    """The provider's own name for the resource; empty when the call goes to an API's default provider."""
    resource: str
    """The name the caller used."""
    request_id: str
    traceparent: str
    provider_data: str | None = field(default=None, repr=False)
    """The JSON of `x-stackmesh-provider-data` as it came. Read it with `provider_data`."""


_current: Final[ContextVar[Call]] = ContextVar("call")

enter = _current.set
leave = _current.reset
current = _current.get

P = TypeVar("P", bound=BaseModel)


def provider_data(schema: type[P]) -> P | None:
    """The caller's provider data, or None when there is none, or no caller: the process asks for itself.

    Raises InvalidProviderData, which shows no value.
    """
    call = _current.get(None)
    raw = call.provider_data if call is not None else None
    if raw is None:
        return None
    try:
        return schema.model_validate_json(raw)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['type'].replace('_', ' ')}"
            for e in error.errors(include_input=False, include_context=False, include_url=False)
        ]
        raise InvalidProviderData(f"x-stackmesh-provider-data: {'; '.join(problems)}") from None
