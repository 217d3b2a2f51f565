"""What AWS says an account can have: ListFoundationModels and ListInferenceProfiles, asked now and then.

Both need rights of their own (bedrock:ListFoundationModels, bedrock:ListInferenceProfiles), which an account that runs
models need not have.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from services.inference.bedrock.catalog import Catalog
from services.inference.bedrock.credentials import Account
from services.inference.bedrock.errors import NoCredentials
from services.inference.bedrock.runtime import Question, Runtime, T
from services.inference.remote.errors import sensible
from stackmesh.errors import BackendPermissionDenied, BackendUnreachable, MeshError, Timeout

TIMEOUT: Final = 4.0
"""Seconds for all of a catalog: whoever asks what is served waits for 5."""
_TTL: Final = 2.0
_PROFILES_TTL: Final = 60.0
"""Seconds that a list is good for. Profiles come and go rarely, and take two more requests."""
_USABLE: Final = {"TEXT", "EMBEDDING"}
"""What comes out of the models that this provider can do something with."""


class Listing:
    """The catalogs of the server's own account, which is remembered, and of callers'."""

    def __init__(self, control: Runtime | None, runtime: Runtime, own: Account, region: str) -> None:
        """`control`: None if nothing is to be listed here. Then, and without credentials, `runtime` is asked whether it
        is there.
        """
        self._control = control
        self._runtime = runtime
        self._account = own
        self._region = region
        self._lock = asyncio.Lock()
        self._found: Catalog | MeshError = Catalog(region)
        self._until = 0.0
        self._profiles: Mapping[str, str] | None = None
        self._profiles_until = 0.0
        self.last = Catalog(region)
        """The server's own, as last found."""

    async def own(self) -> Catalog:
        """The server's own, now. What was found, or failed, holds for 2 s.

        Without credentials of its own, it is asked at least whether AWS is there.
        """
        async with self._lock:
            if time.monotonic() >= self._until:
                self._found = await self._find()
                self._until = time.monotonic() + _TTL
            found = self._found
        if isinstance(found, MeshError):
            raise found
        self.last = found
        return found

    async def of(self, account: Account) -> Catalog:
        """A caller's, asked anew."""
        region = account.credential.region if account.credential is not None else self._region
        async with _in_time(account):
            return Catalog(region, await self._allowed(account, models), await self._allowed(account, profiles))

    async def _find(self) -> Catalog | MeshError:
        try:
            async with _in_time(self._account):
                with suppress(NoCredentials):
                    if self._control is not None:
                        return await self._catalog()
                await self._runtime.probe(self._account, _anything)
                return Catalog(self._region)
        except MeshError as error:
            return error

    async def _catalog(self) -> Catalog:
        listed = await self._allowed(self._account, models)
        if time.monotonic() >= self._profiles_until:
            self._profiles = await self._allowed(self._account, profiles)
            self._profiles_until = time.monotonic() + _PROFILES_TTL
        return Catalog(self._region, listed, self._profiles)

    async def _allowed(self, account: Account, question: Question[T]) -> T | None:
        """The answer; None if the account may not ask."""
        if self._control is None:
            return None
        try:
            return await self._control.ask(account, question)
        except BackendPermissionDenied:
            return None


@asynccontextmanager
async def _in_time(account: Account) -> AsyncGenerator[None]:
    """Whoever does not answer in time is not there: nobody waits for a list."""
    try:
        async with asyncio.timeout(TIMEOUT):
            yield
    except (TimeoutError, Timeout):
        raise BackendUnreachable(f"{account.where} did not say in time what it has") from None


# In a thread, with a client of boto3's


def models(api: Any) -> frozenset[str]:
    """The ids of models that can be called as they are."""
    found = api.list_foundation_models(byInferenceType="ON_DEMAND")
    with sensible("AWS"):
        return frozenset(
            each["modelId"]
            for each in found["modelSummaries"]
            if _USABLE.intersection(each.get("outputModalities", _USABLE))
        )


def profiles(api: Any) -> Mapping[str, str]:
    """Inference profiles, and the id of the model behind each."""
    pages = api.get_paginator("list_inference_profiles")
    with sensible("AWS"):
        return {
            name: model
            for kind in ("SYSTEM_DEFINED", "APPLICATION")
            for page in pages.paginate(typeEquals=kind, PaginationConfig={"PageSize": 1000})
            for name, model in _profiles(page)
        }


def _profiles(page: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Those of an application are called by their ARNs."""
    for profile in page["inferenceProfileSummaries"]:
        name = "inferenceProfileId" if profile["type"] == "SYSTEM_DEFINED" else "inferenceProfileArn"
        yield profile[name], profile["models"][0]["modelArn"].rpartition("/")[2]


def _anything(api: Any) -> None:
    """A request that is refused before anybody looks at it."""
    api.converse(modelId="none.none", messages=[])
