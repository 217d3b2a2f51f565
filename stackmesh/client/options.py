"""What is sent beside every request: a deadline, and the caller's provider data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stackmesh import headers
from stackmesh.errors import InvalidProviderData


@dataclass(frozen=True, slots=True)
class Options:
    timeout: float | None = None
    """Seconds for a whole call, streams included. None: the gateway's own limit."""
    provider_data: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Per-request credentials by key. Never shown, never logged."""

    def merged(self, timeout: float | None, provider_data: Mapping[str, Any] | None) -> Options:
        """These options, with what is given in their place; provider data key by key."""
        return Options(
            timeout=self.timeout if timeout is None else timeout,
            provider_data={**self.provider_data, **(provider_data or {})},
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of a call. Raises InvalidProviderData, which shows no value."""
        if not self.provider_data:
            return ()
        try:
            value = json.dumps(dict(self.provider_data), separators=(",", ":"))
        except (TypeError, ValueError):
            raise InvalidProviderData("provider_data cannot be written as JSON") from None
        if len(value) > headers.PROVIDER_DATA_LIMIT:
            limit = headers.PROVIDER_DATA_LIMIT
            raise InvalidProviderData(f"provider_data is {len(value)} bytes of JSON, at most {limit} are allowed")
        return ((headers.PROVIDER_DATA, value),)
