"""boto3's clients: made off the event loop, kept one a credential and region, never given to another.

Making one takes 3 to 10 ms, and looking for the server's own credentials may ask the network. A client that has been
pushed out of the cache ends when the calls that use it have.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self

import boto3.session
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import NoCredentialsError

from services.inference.bedrock.connections import watch
from services.inference.bedrock.credentials import Credential
from stackmesh.errors import Timeout

Service = Literal["bedrock-runtime", "bedrock"]
"""The one that runs models, and the one that lists them."""
_SERVICES: Final[tuple[Service, ...]] = ("bedrock-runtime", "bedrock")
_CHAIN_RETRY: Final = 30.0
"""Seconds after which credentials of the server's own are looked for again. In vain, that may take seconds."""
_MAKING_LIMIT: Final = 10.0
"""Seconds to wait for a client: for a role's credentials, as a rule."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How clients are made."""

    region: str
    endpoints: Mapping[Service, str | None]
    """Where other than in the region."""
    options: Mapping[Service, Mapping[str, Any]]
    """Timeouts, pool and retries, as botocore's Config takes them."""
    limit: int
    """Clients that are kept."""


class _Entry:
    """A client that is kept, or was."""

    def __init__(self, made: asyncio.Future[Any]) -> None:
        self.made = made
        self.users = 0
        self.kept = True

    def let_go(self) -> None:
        self.kept = False
        self.close_if_unused()

    def close_if_unused(self) -> None:
        if self.kept or self.users or not self.made.done() or self.made.cancelled():
            return
        if self.made.exception() is None:
            self.made.result().close()


class Clients:
    """`async with` opens and closes them all."""

    anonymous: Mapping[Service, Any]
    """They sign nothing, which AWS refuses: so it is seen that it is there."""

    def __init__(self, settings: Settings, session: Any) -> None:
        """`session` is botocore's, which finds the server's own credentials."""
        self._settings = settings
        # A session serves one thread. There are two, so that whoever brings a credential does not wait while one of the
        # server's own is looked for; what they read of botocore's data files is shared.
        self._own_session = session
        self._callers_session: Any = botocore.session.Session()
        self._salt = secrets.token_bytes(32)
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self._no_own_until = 0.0
        """time.monotonic() until which the server is known to have no credentials."""

    async def __aenter__(self) -> Self:
        for name in ("botocore", "boto3"):  # at DEBUG they log session tokens, and whole requests
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.WARNING))
        self._own = ThreadPoolExecutor(1, "bedrock-own")
        self._callers = ThreadPoolExecutor(1, "bedrock-callers")
        try:
            self.anonymous = await asyncio.get_running_loop().run_in_executor(self._own, self._open)
        except BaseException:
            self._shut()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._shut()
        while self._kept:
            self._kept.popitem()[1].let_go()
        for api in self.anonymous.values():
            api.close()

    def _shut(self) -> None:
        for executor in (self._own, self._callers):
            executor.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> Mapping[Service, Any]:
        """Read botocore's data, which takes 0.3 s, and make the anonymous clients."""
        boto3.session.Session(botocore_session=self._own_session)
        self._callers_session.register_component("data_loader", self._own_session.get_component("data_loader"))
        region, session = self._settings.region, self._own_session
        return {service: self._client(session, service, region, signature_version=UNSIGNED) for service in _SERVICES}

    @asynccontextmanager
    async def of(self, service: Service, credential: Credential | None) -> AsyncGenerator[Any]:
        """The client of a caller's credential; None: the server's own. Raises NoCredentialsError if it has none."""
        entry = self._entry(service, credential)
        entry.users += 1
        try:
            try:
                async with asyncio.timeout(_MAKING_LIMIT):
                    client = await asyncio.shield(entry.made)
            except TimeoutError:
                raise Timeout(f"AWS credentials could not be had within {_MAKING_LIMIT:g} s") from None
            yield client
        finally:
            entry.users -= 1
            entry.close_if_unused()

    def _entry(self, service: Service, credential: Credential | None) -> _Entry:
        key = self._key(service, credential)
        entry = self._kept.get(key)
        if entry is not None:
            self._kept.move_to_end(key)
            return entry
        if credential is not None:
            make = partial(self._callers_client, service, credential)
            executor = self._callers
        elif time.monotonic() < self._no_own_until:
            raise NoCredentialsError
        else:
            make, executor = partial(self._own_client, service), self._own
        entry = self._kept[key] = _Entry(asyncio.get_running_loop().run_in_executor(executor, make))
        entry.made.add_done_callback(partial(self._made, key, entry))
        if len(self._kept) > self._settings.limit:
            self._kept.popitem(last=False)[1].let_go()
        return entry

    def _made(self, key: bytes, entry: _Entry, made: asyncio.Future[Any]) -> None:
        error = None if made.cancelled() else made.exception()
        if isinstance(error, NoCredentialsError):
            self._no_own_until = time.monotonic() + _CHAIN_RETRY
        if (made.cancelled() or error is not None) and self._kept.get(key) is entry:
            del self._kept[key]
        entry.close_if_unused()

    def _key(self, service: Service, credential: Credential | None) -> bytes:
        """Tells credentials apart and does not tell what they are."""
        parts = [service]
        if credential is not None:
            region, token = credential.region, credential.session_token or ""
            parts += [region, credential.access_key_id, credential.secret_access_key, token]
        return hashlib.sha256(
            b"".join([self._salt, *(b"%d:%s" % (len(part), part.encode()) for part in parts)])
        ).digest()

    # In the threads

    def _own_client(self, service: Service) -> Any:
        session = self._own_session
        if session.get_credentials() is None and session.get_auth_token(signing_name="bedrock") is None:
            raise NoCredentialsError
        return self._client(session, service, self._settings.region)

    def _callers_client(self, service: Service, credential: Credential) -> Any:
        return self._client(self._callers_session, service, credential.region, credential)

    def _client(
        self, session: Any, service: Service, region: str, credential: Credential | None = None, **options: Any
    ) -> Any:
        if credential is not None:
            # Said aloud: else AWS_BEARER_TOKEN_BEDROCK, which is the server's, would come before it.
            options["signature_version"] = "v4"
        api = session.create_client(
            service,
            region_name=region,
            endpoint_url=self._settings.endpoints[service],
            config=Config(**self._settings.options[service], **options, user_agent_extra="stackmesh"),
            **(credential.keywords() if credential is not None else {}),
        )
        watch(api)
        return api
