"""A vendor's API of the OpenAI dialect: callers may bring keys of their own, and what it serves is the vendor's choice.

With a key of the server's own, the vendor lists what that account can call. Without one nobody can be asked, so what
counts as served is the vendor's table, and beside it whatever has been registered: a name with a slash in it, as these
vendors' ids have one, is taken for an id unless it is a slip away from one of the table. The names of `models` in the
configuration are served in either case.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr

from services.inference.lookup import ModelLookup
from services.inference.openai.compatible import OpenAICompatible
from services.inference.openai.request import Dialect
from services.inference.remote.config import ServerConfig
from services.inference.remote.errors import sensible
from services.inference.remote.keys import OwnKey, secret
from services.inference.remote.sdk import SdkHttp
from services.inference.remote.urls import Url
from stackmesh.config import ResourceName
from stackmesh.errors import BackendPermissionDenied, BackendUnauthenticated, NotHosted
from stackmesh.providers import Wanted


def _check_path(url: str) -> str:
    if re.search(r"/v\d+$|/inference$", url):
        raise ValueError("must be without /v1 and /inference: that path is added")
    return url


HostUrl = Annotated[Url, AfterValidator(_check_path)]
"""Where a vendor's API is, or a proxy in front of it; without the API's own path."""


class HostedConfig(ServerConfig):
    url: HostUrl
    api_key: OwnKey = None
    """The server's own key. A caller's, in the provider data, comes before it; without either nothing is sent."""
    models: tuple[ResourceName, ...] = ()
    """What can be called beside what the vendor lists: a deployment of one's own, a model that is not advertised."""


class Hosted(OpenAICompatible, ABC):
    """An adapter is a subclass: it says which key the caller has sent, and what else its vendor does in its own way."""

    def __init__(
        self, config: HostedConfig, transport: SdkHttp, dialect: Dialect, lookup: ModelLookup, key_field: str
    ) -> None:
        super().__init__(transport, dialect, lookup)
        self._lookup = lookup
        self._own = secret(config.api_key)
        self._extra = config.models
        self._key_field = key_field
        self._loaded: dict[str, None] = {}
        self._listed = self._own is not None
        """Whether the vendor lists what can be called."""

    @abstractmethod
    def sent_key(self) -> SecretStr | None:
        """What the caller's provider data has for a key."""

    @abstractmethod
    def ids(self, listing: Any) -> Sequence[str]:
        """What of the answer to GET /models can be called here."""

    def full(self, name: str) -> str:
        """The vendor's id that a short form of it means."""
        return name

    async def listed(self, key: str) -> Sequence[str] | None:
        """The ids that GET /models gives. None: the vendor does not list what this account can call."""
        listing = await self._transport.get("/models", key)
        with sensible(self._where):
            return self.ids(listing)

    def key(self) -> str | None:
        sent = self.sent_key()
        if sent is None and self._own is None:
            remedy = f'send {{"{self._key_field}": "..."}} as provider data, or configure `api_key`'
            raise BackendUnauthenticated(f"{self._where} wants a key: {remedy}")
        return sent.get_secret_value() if sent is not None else self._own

    async def list_served(self) -> Sequence[str]:
        """What the vendor lists, or may be thought to serve. Raises when its API is not there."""
        listed = await self._listing.names(self._own)
        loaded = () if self._listed else self._loaded
        return list(dict.fromkeys([*listed, *self._extra, *loaded]))

    async def _ask_for_models(self, key: str | None) -> Sequence[str]:
        found = await self._asked_by_nobody() if key is None else await self.listed(key)
        self._listed = found is not None
        return sorted(self._lookup.ids) if found is None else found

    async def _asked_by_nobody(self) -> None:
        """Whether the API is there. That it lists nothing without a key says that it is."""
        try:
            await self._transport.get("/models", None)
        except (BackendUnauthenticated, BackendPermissionDenied):
            return

    async def resolve(self, wanted: Wanted) -> str:
        name = self.full(wanted.provider_resource_id)
        if name in self._extra:
            return name
        if self._own is None:
            return self._taken(name)
        try:
            return await self._listing.resolve(name, self._own)
        except NotHosted:
            if self._listed:
                raise
            return self._taken(name)

    def _taken(self, name: str) -> str:
        """What a name is taken for, when nobody can be asked."""
        try:
            return self._lookup.resolve(name, None, self._where)
        except NotHosted:
            if "/" not in name or any(_is_slip(name, known) for known in self._lookup.ids):
                raise
            return name

    async def load(self, wanted: Wanted) -> None:
        self._loaded[wanted.provider_resource_id] = None

    async def unload(self, provider_resource_id: str) -> None:
        self._loaded.pop(provider_resource_id, None)


def _is_slip(name: str, known: str) -> bool:
    """Whether they differ in the case of letters and at most one other character that is no digit: 3.1 and 3.2 are
    different models.
    """
    a, b = name.casefold(), known.casefold()
    if re.sub(r"\D", "", a) != re.sub(r"\D", "", b):
        return False
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= 1 - 1 / max(len(a), len(b))
