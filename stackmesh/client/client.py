"""One channel to the gateway, and what can be called over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Any, Final, Self

import grpc

from stackmesh.client.inference import Inference
from stackmesh.client.inspect import Inspect
from stackmesh.client.instances import Instances
from stackmesh.client.options import Options
from stackmesh.client.providers import Providers
from stackmesh.client.registrations import Agents, MemoryBanks, Models, Shields
from stackmesh.client.watch import Change, Feed, Word, changes, wanted
from stackmesh.reflector import Listed, RegistrySource
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
    shields: Shields
    memory_banks: MemoryBanks
    agents: Agents
    providers: Providers
    instances: Instances
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
        channel = self._opened()
        other = Client(self._address)
        other._options = self._options.merged(timeout, provider_data)
        other._attach(channel)
        return other

    async def entries(self, *, kinds: Collection[Word] = ()) -> Listed:
        """Everything the registry holds, of some kinds or of all, as it was at one revision."""
        return await RegistrySource(self._opened(), wanted(kinds)).list()

    def watch(
        self, *, kinds: Collection[Word] = (), start_revision: int | None = None, store_id: str = ""
    ) -> AsyncGenerator[Change]:
        """What there is, then whatever changes, for ever: in order, nothing left out, through a gateway's restart.

            async with aclosing(client.watch(kinds=["model"])) as changes:
                async for change in changes:
                    print(change.what, change.name, change.revision)

        With `start_revision`, the revision of the last change that was taken, it goes on from there, telling that
        revision again, and raises RevisionGone when it is no longer known (or not of the store `store_id`): watch
        without it. What is wrong at the beginning is raised; what goes wrong later is waited for. When this client is
        closed, Unavailable is raised.
        """
        return changes(Feed(RegistrySource(self._opened(), wanted(kinds)), start_revision, store_id))

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("open the client first: async with Client(...) as client")
        return self._channel

    def _attach(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.inference = Inference(channel, self._options)
        self.models = Models(channel, self._options)
        self.shields = Shields(channel, self._options)
        self.memory_banks = MemoryBanks(channel, self._options)
        self.agents = Agents(channel, self._options)
        self.providers = Providers(channel, self._options)
        self.instances = Instances(channel, self._options)
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
