"""One channel to the gateway, and what can be called over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import grpc

from stackmesh.client.inference import Inference
from stackmesh.client.inspect import Inspect
from stackmesh.client.models import Models
from stackmesh.client.options import Options
from stackmesh.client.providers import Providers
from stackmesh.transport import CLIENT_CHANNEL

DEFAULT_ADDRESS: Final = "127.0.0.1:8321"


class Client:
    """A mesh, as its gateway at `address` (`host:port`) shows it. `async with` opens and closes the channel.

    `timeout` is in seconds and holds for each whole call; without it the gateway's own limits hold. `provider_data` are
    per-request credentials, sent with every call and never shown; the provider that needs them validates them.

        async with Client(provider_data={"together_api_key": key}, timeout=60) as client:
            async for model in client.models.list():
                print(model.identifier)
    """

    inference: Inference
    models: Models
    providers: Providers
    inspect: Inspect

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float | None = None,
        provider_data: Mapping[str, Any] | None = None,
    ) -> None:
        self._address = address
        self._options = Options().merged(timeout, provider_data)
        self._channel: grpc.aio.Channel | None = None

    def with_options(self, *, timeout: float | None = None, provider_data: Mapping[str, Any] | None = None) -> Client:
        """The same channel with another deadline, more provider data, or both. Keys given here win.

        The new client lives as long as this one, which alone is opened and closed.
        """
        if self._channel is None:
            raise RuntimeError("open the client first: async with Client(...) as client")
        other = Client(self._address)
        other._options = self._options.merged(timeout, provider_data)
        other._attach(self._channel)
        return other

    def _attach(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.inference = Inference(channel, self._options)
        self.models = Models(channel, self._options)
        self.providers = Providers(channel, self._options)
        self.inspect = Inspect(channel, self._options)

    async def __aenter__(self) -> Self:
        self._attach(grpc.aio.insecure_channel(self._address, options=CLIENT_CHANNEL))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    def __repr__(self) -> str:
        return f"<Client {self._address} [{'closed' if self._channel is None else 'open'}]>"
