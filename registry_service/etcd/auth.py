"""The token that says who calls. etcd forgets a token after some minutes, and all of them when a member restarts."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc

from registry_service.etcd.endpoints import Endpoint
from registry_service.etcd.url import Location
from registry_service.etcd.wire import AUTHENTICATE
from stackmesh.etcd.v1 import etcd_pb2 as pb

log = logging.getLogger(__name__)

_NOT_ENABLED: Final = "authentication is not enabled"


class Token:
    """The one of a location; none without a user. However many want it, it is asked for once."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._token: str | None = None if location.user else ""
        self._asking = asyncio.Lock()

    @property
    def renewable(self) -> bool:
        return bool(self._location.user)

    async def get(self, endpoint: Endpoint) -> str:
        """Raises AioRpcError if etcd does not give one. The caller sets the time limit."""
        async with self._asking:
            if self._token is None:
                self._token = await self._ask(endpoint)
            return self._token

    def spoil(self, token: str) -> None:
        """It is no longer good."""
        if token == self._token and self.renewable:
            self._token = None

    async def _ask(self, endpoint: Endpoint) -> str:
        request = pb.AuthenticateRequest(name=self._location.user, password=self._location.password)
        try:
            answer = await endpoint.unary(AUTHENTICATE)(request)
        except grpc.aio.AioRpcError as error:
            if _NOT_ENABLED in (error.details() or ""):
                log.warning("etcd at %s lets everybody in, without the user and the password", endpoint.address)
                return ""  # until it begins to ask for a token
            raise
        return answer.token

    def __repr__(self) -> str:
        return f"<Token [{'none' if not self._token else 'there'}]>"
